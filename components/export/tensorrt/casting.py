"""A graph in half precision, with chosen nodes left in float32; and the same graph for a processor to compute.

TensorRT takes the types of a graph at their word, so that precision is written into the graph. ONNX Runtime is no
witness of such a graph: on a processor it computes float16 in float32 and leaves the roundings between nodes out, so
that not even an overflow shows, and it computes no bfloat16. A *rounded* graph stays float32 and has every number that
half precision would hold rounded to it and back, which ONNX Runtime does keep.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference

from components.errors import Refused

FLOAT = onnx.TensorProto.FLOAT
HALVES = {
    "fp16": (onnx.TensorProto.FLOAT16, np.dtype(np.float16)),
    "bf16": (onnx.TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
FLOAT32_ONLY = frozenset({"Constant", "Resize", "Range"})
NORMALISATION = frozenset(
    {"LayerNormalization", "RMSNormalization", "GroupNormalization", "InstanceNormalization", "BatchNormalization"}
    | {"ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Pow", "Sqrt", "Reciprocal", "Clip", "Expand", "Max"}
    | {"Div"}
)
SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv"})
STEPS: tuple[tuple[str, ...], ...] = (
    (),
    ("normalisation",),
    ("normalisation", "softmax"),
    ("normalisation", "softmax", "last projection"),
)
"""What is left in float32, in the order in which it is tried until the vectors are those of the float32 graphs."""


def members(graph: onnx.GraphProto, families: Iterable[str]) -> set[str]:
    """Returns the first outputs of the nodes that belong to the families; an output names its node."""
    found = {"normalisation": NORMALISATION, "softmax": SOFTMAX}
    kept = set().union(*(found.get(family, ()) for family in families))
    nodes = {node.output[0] for node in graph.node if node.op_type in kept}
    return nodes | (last_projections(graph) if "last projection" in families else set())


def last_projections(graph: onnx.GraphProto) -> set[str]:
    """Returns what `members` does of the products nearest to the outputs, and of all that follows them."""
    makers = {output: node for node in graph.node for output in node.output}
    found: set[str] = set()
    waiting = [makers[output.name] for output in graph.output if output.name in makers]
    while waiting:
        node = waiting.pop()
        if node.output[0] not in found:
            found.add(node.output[0])
            if node.op_type not in PRODUCTS:
                waiting += [makers[name] for name in node.input if name in makers]
    return found


def cast(model: onnx.ModelProto, precision: str, families: Iterable[str], rounded: bool = False) -> onnx.ModelProto:
    """Returns the float32 model in `fp16` or `bf16`, inputs and outputs float32; `families` stay float32.

    `rounded` returns the graph that a processor computes instead. Raises `Refused` if the graph branches or loops.
    """
    kind, dtype = HALVES[precision]
    model = shape_inference.infer_shapes(model)
    constants_to_weights(model.graph)
    graph, kept = model.graph, members(model.graph, families)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer if weight.data_type == FLOAT}
    values = (*graph.input, *graph.value_info, *graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == FLOAT} | set(weights)
    nodes, lowered = [], dict[str, str]()
    outputs = {output.name for output in graph.output}

    def convert(name: str, to: int) -> str:
        made_name = f"{name}_{onnx.TensorProto.DataType.Name(to).lower()}"
        nodes.append(helper.make_node("Cast", [name], [made_name], name=f"cast_{made_name}", to=to))
        return made_name

    def half(name: str) -> str:
        """Returns the name of a float32 tensor in half precision, or rounded to it."""
        if name not in lowered:
            if name in weights:
                value, lowered[name] = in_range(weights[name], dtype), f"{name}_{precision}"
                value = value.astype(np.float32) if rounded else value
                graph.initializer.append(numpy_helper.from_array(value, lowered[name]))
            else:
                lowered[name] = convert(convert(name, kind), FLOAT) if rounded else convert(name, kind)
        return lowered[name]

    for node in list(graph.node):
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise Refused(f"the node {node.name} ({node.op_type}) branches; its precision cannot be chosen")
        if node.output[0] in kept or node.op_type in FLOAT32_ONLY or not floats & {*node.input, *node.output}:
            nodes.append(node)
            continue
        node.input[:] = [half(name) if name in floats else name for name in node.input]
        nodes.append(node)
        if rounded:
            for position, name in enumerate(node.output):
                if name in outputs & floats:
                    node.output[position] = f"{name}_exact"
                    back = convert(node.output[position], kind)
                    nodes.append(helper.make_node("Cast", [back], [name], name=f"{name}_back", to=FLOAT))
            continue
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                attribute.i = kind
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == FLOAT:
                value = in_range(numpy_helper.to_array(attribute.t), dtype)
                attribute.t.CopyFrom(numpy_helper.from_array(value, attribute.t.name))
        for position, name in enumerate(node.output):
            if name in floats:
                node.output[position] = lowered[name] = f"{name}_{precision}"
                cast_back = helper.make_node("Cast", [lowered[name]], [name], name=f"{name}_back", to=FLOAT)
                nodes.append(cast_back)
    replace_nodes(graph, used(nodes, outputs))
    return model


def constants_to_weights(graph: onnx.GraphProto) -> None:
    """Makes a weight of every constant that is a tensor, so that it is rounded as weights are."""
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        weight = graph.initializer.add()
        weight.CopyFrom(node.attribute[0].t)
        weight.name = node.output[0]
        graph.node.remove(node)


def used(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Returns the nodes without the casts that nobody reads."""
    wanted = outputs | {name for node in nodes for name in node.input}
    return [node for node in nodes if node.op_type != "Cast" or node.output[0] in wanted]


def replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Replaces the nodes of a graph, and removes the weights that they do not use and the types that they had."""
    wanted = {name for node in nodes for name in node.input}
    weights = [weight for weight in graph.initializer if weight.name in wanted]
    for field, content in ((graph.node, nodes), (graph.initializer, weights), (graph.value_info, [])):
        del field[:]
        field.extend(content)


def in_range(value: NDArray[np.float32], dtype: np.dtype) -> NDArray:
    """Returns the numbers rounded; a mask's lowest one stays finite, and a constant that guards a division above 0."""
    limits: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    clipped = np.clip(value, float(limits.min), float(limits.max))
    if value.size == 1 and value != 0:
        clipped = np.copysign(np.maximum(np.abs(clipped), float(limits.smallest_subnormal)), value)
    return np.asarray(clipped).astype(dtype)

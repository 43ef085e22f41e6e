"""ONNX graphs in fp16 where that is sound."""

from __future__ import annotations

import onnx
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

IN_FP32 = ("ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare", "LayerNormalization", "Pow", "Softmax", "Sqrt")
"""Sums over many numbers, which fp16 overflows above 65,504 and rounds to nothing below 6e-8."""


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the graph in fp16; its inputs, its outputs, and the operators `IN_FP32` stay fp32."""
    del model.graph.value_info[:]  # the converter infers the types anew, and trusts old ones more
    halved: onnx.ModelProto = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *IN_FP32]
    )
    made: set[str] = set()
    for node in list(halved.graph.node):  # the converter casts a weight that several operators share once for each
        if node.output[0] in made:
            halved.graph.node.remove(node)
        made.update(node.output)
    OnnxModel(halved).topological_sort()  # the converter appends its casts at the end
    return halved

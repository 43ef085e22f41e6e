"""What goes into a graph and comes out of it, and the shapes that an engine of it is to take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from components.errors import Refused
from components.export.tensorrt.settings import Range, TensorRT

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Tensor:
    """An input or an output; an axis of any size has its name in place of a number."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Profile:
    """The smallest shape of an input, the one that the engine is tuned for, and the largest."""

    min: Shape
    opt: Shape
    max: Shape

    def holds(self, shape: Shape) -> bool:
        return len(shape) == len(self.min) and all(
            least <= size <= most for least, size, most in zip(self.min, shape, self.max, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tensor.name for tensor in (*self.inputs, *self.outputs))


def signature(path: Path) -> Signature:
    """Returns the inputs and the outputs of an ONNX file, whose weights are not read."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    return Signature(tuple(map(tensor, inputs)), tuple(map(tensor, graph.output)))


def tensor(value: Any) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param or f"{value.name}:{position}"
        for position, axis in enumerate(kind.shape.dim)
    )
    return Tensor(value.name, onnx.TensorProto.DataType.Name(kind.elem_type).lower(), shape)


def profiles(found: Signature, settings: TensorRT) -> dict[str, Profile]:
    """Returns the profile of every input: the batch is the first axis of the output, any other free axis a length.

    Raises `Refused` if more than one other axis is free: one range does not describe both.
    """
    (batch, *_), free = found.outputs[0].shape, dict[str, Range]()
    for axis in (axis for each in found.inputs for axis in each.shape if isinstance(axis, str)):
        free[axis] = settings.batch if axis == batch else settings.length
    lengths = [axis for axis in free if axis != batch]
    if len(lengths) > 1:
        raise Refused(
            f"the axes {', '.join(lengths)} are all free, and export.tensorrt.length describes one of them",
            "Export the model with one free axis beside the batch.",
        )
    return {each.name: profile(each, free) for each in found.inputs}


def profile(tensor: Tensor, free: Mapping[str, Range]) -> Profile:
    def sizes(end: str) -> Shape:
        return tuple(axis if isinstance(axis, int) else getattr(free[axis], end) for axis in tensor.shape)

    return Profile(sizes("min"), sizes("opt"), sizes("max"))

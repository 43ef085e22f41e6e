"""ONNX graphs in files, which the checker and ONNX Runtime accept: written from torch modules or from one another."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from components.embedder.runtime import session

LARGEST_FILE = 2**31 - 2**24
"""Bytes of weights up to which they lie in the graph's own file: protobuf reads none of 2 GiB."""
DATA = ".data"
"""What the name of a graph's file is followed by in that of its weights, where they lie beside it."""


def write(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    path: Path,
    opset: int,
    fixed: Mapping[str, Collection[int]],
) -> None:
    """Writes one graph; see `save`. All sizes of the inputs are free but those of the axes that `fixed` names.

    Raises what the ONNX checker or ONNX Runtime raises if the graph is not valid.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    free = {
        name: {axis: torch.export.Dim.DYNAMIC for axis in range(value.ndim) if axis not in fixed.get(name, ())}
        for name, value in inputs.items()
    }
    program = torch.onnx.export(
        module.eval(),
        kwargs=dict(inputs),
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes=free,
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    forget_origin(model)
    save(model, path)
    check(path)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Writes a graph to one file, or to two where one would be too large: its weights are then beside it."""
    beside = path.with_name(path.name + DATA)
    beside.unlink(missing_ok=True)  # onnx would append to it
    onnx.save(model, path, save_as_external_data=is_large(model), location=beside.name)


def is_large(model: onnx.ModelProto) -> bool:
    """Returns whether the weights are too many for the graph's own file."""
    return sum(len(weight.raw_data) for weight in model.graph.initializer) > LARGEST_FILE


def rewrite(source: Path, directory: Path, change: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    """Writes to `directory` all that lies in `source`, every graph as `change` makes it. Raises as `write` does."""
    shutil.copytree(source, directory)
    for path in sorted(directory.glob("*.onnx")):
        save(change(onnx.load(path)), path)
        check(path)


def forget_origin(model: onnx.ModelProto) -> None:
    """Removes what the exporter notes about the machine: stack traces with paths, which differ from place to place."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def check(path: Path) -> None:
    """Raises if the ONNX checker or ONNX Runtime refuses the graph."""
    onnx.checker.check_model(path, full_check=True)
    session(path, threads=1)

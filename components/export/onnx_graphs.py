"""Writes a torch module as an ONNX graph that the checker and ONNX Runtime accept."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from components.embedder.runtime import session

LARGEST_FILE = 2_000_000_000
"""Bytes of weights that still go into the graph's own file; protocol buffers end at 2 GiB."""


def write(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    output: str,
    path: Path,
    opset: int,
    fixed: Mapping[str, Collection[int]],
) -> None:
    """Writes one graph, with weights that are too large for one file beside it, in `PATH.data`. All sizes of the inputs
    are free but those of the axes that `fixed` names.

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
    size = sum(parameter.nbytes for parameter in module.parameters())
    weights = path.with_name(f"{path.name}.data")
    weights.unlink(missing_ok=True)  # onnx would write on at its end
    onnx.save(model, path, save_as_external_data=size > LARGEST_FILE, location=weights.name)
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

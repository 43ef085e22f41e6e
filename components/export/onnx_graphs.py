"""Writes a torch module as an ONNX graph that the checker and ONNX Runtime accept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from components.embedder.runtime import session


def write(module: nn.Module, inputs: Mapping[str, Tensor], output: str, path: Path, opset: int) -> None:
    """Writes one graph. The batch, and the length of texts, are free.

    Raises what the ONNX checker or ONNX Runtime raises if the graph is not valid.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    free = {
        name: dict.fromkeys([0, 1] if value.ndim == 2 else [0], torch.export.Dim.DYNAMIC)
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
    onnx.save(model, path)
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

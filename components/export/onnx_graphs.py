"""A dual encoder as two ONNX graphs, one for texts and one for images, with the files that a runtime needs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from components.embedder.dual_encoder import DualEncoder
from components.embedder.runtime import DESCRIPTION, session

TEXT, IMAGE = "text.onnx", "image.onnx"
TOKENIZER = "tokenizer.json"


class TextGraph(nn.Module):
    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoder.embed_text(input_ids, attention_mask)


class ImageGraph(nn.Module):
    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.encoder.embed_images(pixel_values)


def export(encoder: DualEncoder, directory: Path, opset: int) -> None:
    """Writes to `directory` what `runtime.Runtime` loads; the outputs are L2-normalised.

    `text.onnx`: `input_ids`, `attention_mask` `(n, tokens)` int64 to `sentence_embedding (n, dimension)`;
    `image.onnx`: `pixel_values (n, 3, size, size)` float32 to `image_embedding (n, dimension)`. Raises what the ONNX
    checker or ONNX Runtime raises if a graph is not valid.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not needed
    directory.mkdir(parents=True, exist_ok=True)
    size = encoder.description.image_size
    # Two tensors: the exporter takes one that is given twice for one input.
    text_inputs = {name: torch.ones(2, 3, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    write(TextGraph(encoder), text_inputs, "sentence_embedding", directory / TEXT, opset)
    write(
        ImageGraph(encoder),
        {"pixel_values": torch.zeros(2, 3, size, size)},
        "image_embedding",
        directory / IMAGE,
        opset,
    )
    fast: Any = encoder.tokenizer
    tokenizer = Tokenizer.from_str(fast.backend_tokenizer.to_str())
    tokenizer.no_padding()  # whatever the last call has set
    tokenizer.no_truncation()
    tokenizer.save(str(directory / TOKENIZER))
    description = json.dumps(asdict(encoder.description), indent=2)
    (directory / DESCRIPTION).write_text(description + "\n", encoding="utf-8")


def write(module: nn.Module, inputs: Mapping[str, Tensor], output: str, path: Path, opset: int) -> None:
    """Writes one graph. The batch, and the length of texts, are free."""
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

"""A dual encoder of this project as two ONNX graphs, one for texts and one for images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from components.corpus import Item
from components.embedder import runtime
from components.embedder.dual_encoder import DualEncoder, load
from components.embedder.embedders import RUNTIME as RUNTIME_NAME
from components.embedder.runtime import DESCRIPTION, Description, pixel_values
from components.export.onnx_graphs import write
from components.export.sample import image_batches

RUNTIME = Path(runtime.__file__)
TEXT, IMAGE = "text.onnx", "image.onnx"
TOKENIZER = "tokenizer.json"


def reads(directory: Path) -> bool:
    """Returns whether a model directory holds a dual encoder of this project."""
    return (directory / DESCRIPTION).is_file()


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


def export(directory: Path, target: Path, opset: int) -> None:
    """Writes the graphs of the model in `directory` to `target`; see `write_encoder`."""
    write_encoder(load(directory), target, opset)


def write_encoder(encoder: DualEncoder, directory: Path, opset: int) -> None:
    """Writes to `directory` the runtime, and what it loads; the outputs are L2-normalised.

    `text.onnx`: `input_ids`, `attention_mask` `(n, tokens)` int64 to `sentence_embedding (n, dimension)`;
    `image.onnx`: `pixel_values (n, 3, size, size)` float32 to `image_embedding (n, dimension)`. Raises what the ONNX
    checker or ONNX Runtime raises if a graph is not valid.
    """
    directory.mkdir(parents=True, exist_ok=True)
    size = encoder.description.image_size
    # Two tensors: the exporter takes one that is given twice for one input.
    text_inputs = {name: torch.ones(2, 3, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    write(TextGraph(encoder), text_inputs, "sentence_embedding", directory / TEXT, opset, fixed={})
    write(
        ImageGraph(encoder),
        {"pixel_values": torch.zeros(2, 3, size, size)},
        "image_embedding",
        directory / IMAGE,
        opset,
        fixed={"pixel_values": (1, 2, 3)},
    )
    fast: Any = encoder.tokenizer
    tokenizer = Tokenizer.from_str(fast.backend_tokenizer.to_str())
    tokenizer.no_padding()  # whatever the last call has set
    tokenizer.no_truncation()
    tokenizer.save(str(directory / TOKENIZER))
    description = json.dumps(asdict(encoder.description), indent=2)
    (directory / DESCRIPTION).write_text(description + "\n", encoding="utf-8")
    shutil.copyfile(RUNTIME, directory / RUNTIME_NAME)


def calibration(source: Path, items: Sequence[Item], most: int) -> dict[str, Iterator[dict[str, NDArray[np.float32]]]]:
    """Returns what the image graph in `source` is fed for at most `most` of the items' images, batch by batch."""
    description = Description.read(source)
    return {IMAGE: ({"pixel_values": pixel_values(batch, description)} for batch in image_batches(items, most))}

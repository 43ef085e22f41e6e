"""A whole CLIP or SigLIP, as a sentence-transformers directory, as two ONNX graphs: one for texts, one for images."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from components.backends.directory import MODULES
from components.backends.sentence_transformer import load_model
from components.embedder.embedders import RUNTIME as RUNTIME_NAME
from components.errors import UsageError
from components.export.onnx_graphs import write
from components.export.runtimes import whole_dual_encoder as runtime
from components.export.runtimes.whole_dual_encoder import DESCRIPTION, IMAGE, TEXT, TOKENIZER, Description

TYPES = ("clip", "siglip", "vision-text-dual-encoder")
"""The architectures, as transformers names them, whose images become one square of pixels each."""
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LIBRARY = "transformers.image_processing_backends"


def reads(directory: Path) -> bool:
    """Returns whether a directory is a sentence-transformers model that begins with one of `TYPES`."""
    if not (directory / MODULES).is_file():
        return False
    first = json.loads((directory / MODULES).read_text(encoding="utf-8"))[0]
    config = directory / first["path"] / "config.json"
    if not first["type"].endswith(".Transformer") or not config.is_file():
        return False
    return json.loads(config.read_text(encoding="utf-8")).get("model_type") in TYPES


class TextGraph(nn.Module):
    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        tokens = zip(TEXT_INPUTS, (input_ids, attention_mask, token_type_ids), strict=True)
        return embedded(self.model, "text", {name: value for name, value in tokens if value is not None})


class ImageGraph(nn.Module):
    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return embedded(self.model, "image", {"pixel_values": pixel_values})


def embedded(model: SentenceTransformer, modality: str, inputs: dict[str, Any]) -> Tensor:
    """Returns `(n, dimension)`, L2-normalised: what all modules of the model make of one modality."""
    vectors: Tensor = model({**inputs, "modality": modality})["sentence_embedding"]
    return functional.normalize(vectors, dim=-1)


def export(directory: Path, target: Path, opset: int) -> None:
    """Writes to `target` the runtime, and what it loads, of the model in `directory`.

    `text.onnx`: what its tokenizer makes, of `TEXT_INPUTS`, `(n, tokens)` int64 each, to `sentence_embedding
    (n, dimension)`; `image.onnx`: `pixel_values (n, 3, height, width)` float32 to `image_embedding (n, dimension)`.
    Raises `UsageError` if a processor does what the runtime does not, and what the ONNX checker or ONNX Runtime raises
    if a graph is not valid.
    """
    model = load_model(SentenceTransformer, directory).to("cpu").float()
    description, tokenizer = describe(model, directory), tokenizer_of(model, directory)
    target.mkdir(parents=True, exist_ok=True)
    made = model.preprocess([{"text": "text"}])
    texts = {name: torch.ones(2, 3, dtype=torch.int64) for name in TEXT_INPUTS if name in made}
    images = {"pixel_values": torch.zeros(2, 3, *(description.crop or description.size))}
    write(TextGraph(model), texts, "sentence_embedding", target / TEXT, opset)
    write(ImageGraph(model), images, "image_embedding", target / IMAGE, opset)
    tokenizer.save(str(target / TOKENIZER))
    (target / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(runtime.__file__, target / RUNTIME_NAME)


def tokenizer_of(model: SentenceTransformer, directory: Path) -> Tokenizer:
    """Returns the tokenizer as sentence-transformers calls it, so that its file says where it cuts and how it pads."""
    fast: Any = model.tokenizer
    if not hasattr(fast, "backend_tokenizer"):
        raise refusal(directory, f"its tokenizer, {type(fast).__name__}, is none of the library tokenizers")
    model.preprocess([{"text": "text"}])
    return Tokenizer.from_str(fast.backend_tokenizer.to_str())


def describe(model: SentenceTransformer, directory: Path) -> Description:
    """Returns what the runtime must know. Raises `UsageError` if it is not what the runtime can do."""
    alone = [modality for modality in model.modalities if modality in ("text", "image")]
    if len(alone) != 2 or model.supports("message") or model.supports(("image", "text")):
        raise refusal(directory, "it does not take texts alone and images alone")
    processor: Any = model[0].processor.image_processor
    if type(processor)._preprocess.__module__ != LIBRARY:
        raise refusal(directory, f"its images are prepared in a way of their own, by {type(processor).__name__}")
    size, crop = dict(processor.size or {}), dict(processor.crop_size or {}) if processor.do_center_crop else {}
    sides = ("height", "width")
    square = all(size.get(side) for side in sides)
    if not processor.do_resize or processor.do_pad or not (square or (size.get("shortest_edge") and crop)):
        raise refusal(directory, "its images are not resized to one size")
    if size.get("longest_edge"):
        raise refusal(directory, "its images have a longest edge")
    dimension = model.get_embedding_dimension()
    assert dimension is not None, "a dual encoder has one"
    default = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    return Description(
        dimension=dimension,
        prompt=default or "",
        size=tuple(size[side] for side in sides) if square else (size["shortest_edge"],),
        crop=(crop["height"], crop["width"]) if crop else None,
        resample=int(processor.resample),
        rescale=processor.rescale_factor if processor.do_rescale else 1.0,
        mean=tuple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
    )


def refusal(directory: Path, problem: str) -> UsageError:
    return UsageError(
        f"{directory}: cannot be exported: {problem}",
        "Evaluate it as it is, or distill a student from it and export that.",
    )

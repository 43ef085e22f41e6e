"""A whole CLIP or SigLIP, as a sentence-transformers directory, as two ONNX graphs: one for texts, one for images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from components.backends.directory import matryoshka_dimensions, transformers_type
from components.backends.sentence_transformer import load_model
from components.corpus import Item
from components.embedder.embedders import RUNTIME
from components.embedder.module_file import module_source
from components.errors import UsageError
from components.export.onnx_graphs import write
from components.export.runtimes.whole_dual_encoder import (
    DESCRIPTION,
    IMAGE,
    KINDS_OF_TOKENS,
    TEXT,
    TOKENIZER,
    Description,
    Runtime,
    image_inputs,
)
from components.export.sample import image_batches

PURPOSE = "The model of this directory, a CLIP or a SigLIP, as it is served."
PATCHED = "siglip2"
"""The architecture, as transformers names it, whose images keep their shape; SigLIP 2 of one image size is a siglip."""
TYPES = ("clip", "siglip", PATCHED, "vision-text-dual-encoder")
LIBRARY = "transformers.image_processing_backends"


def reads(directory: Path) -> bool:
    """Returns whether a directory is a sentence-transformers model of one of `TYPES`, or what `export` made of one."""
    return (directory / DESCRIPTION).is_file() or transformers_type(directory) in TYPES


class TextGraph(nn.Module):
    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> Tensor:
        tokens = zip(KINDS_OF_TOKENS, (input_ids, attention_mask, token_type_ids), strict=True)
        return embedded(self.model, "text", {name: value for name, value in tokens if value is not None})


class ImageGraph(nn.Module):
    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return embedded(self.model, "image", {"pixel_values": pixel_values})


class PatchGraph(nn.Module):
    """The image tower of SigLIP 2, which resizes its table of positions to the grid of each image: here by a product
    with weights that the runtime computes. Patches without such weights are padding."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model
        tower: Any = model[0].model
        tower.vision_model.embeddings.resize_positional_embeddings = resized_positions

    def forward(self, pixel_values: Tensor, positions: Tensor) -> Tensor:
        there = (positions.sum(-1) > 0.5).to(torch.int64)
        inputs = {"pixel_values": pixel_values, "pixel_attention_mask": there, "spatial_shapes": positions}
        return embedded(self.model, "image", inputs)


def resized_positions(table: Tensor, weights: Tensor, **_: int) -> Tensor:
    """Returns `(n, patches, width)` of the `table (side, side, width)` and `weights (n, patches, places)`."""
    return weights @ table.flatten(0, 1)


def embedded(model: SentenceTransformer, modality: str, inputs: dict[str, Any]) -> Tensor:
    """Returns `(n, dimension)`, L2-normalised: what all modules of the model make of one modality."""
    vectors: Tensor = model({**inputs, "modality": modality})["sentence_embedding"]
    return functional.normalize(vectors, dim=-1)


def export(directory: Path, target: Path, opset: int) -> None:
    """Writes to `target` the runtime, and what it loads, of the model in `directory`.

    `text.onnx`: `(n, tokens)` int64 of each kind that the model's tokenizer makes, to `sentence_embedding
    (n, dimension)`; `image.onnx`: what `image_inputs` of the runtime makes, to `image_embedding (n, dimension)`.
    Raises `UsageError` if a processor does what the runtime does not, and what the ONNX checker or ONNX Runtime raises
    if a graph is not valid.
    """
    model = load_model(SentenceTransformer, directory).to("cpu").float()
    description, tokenizer = describe(model, directory), tokenizer_of(model, directory)
    target.mkdir(parents=True, exist_ok=True)
    texts = {name: torch.ones(2, 3, dtype=torch.int64) for name in description.text_inputs}
    write(TextGraph(model), texts, "sentence_embedding", target / TEXT, opset, fixed={})
    example = image_inputs([Image.new("RGB", (64, 64)), Image.new("RGB", (64, 32))], description)
    images = {name: torch.from_numpy(value.copy()) for name, value in example.items()}
    graph = PatchGraph(model) if description.patches else ImageGraph(model)
    of_image = {name: range(1, value.ndim) for name, value in images.items()}
    write(graph, images, "image_embedding", target / IMAGE, opset, fixed=of_image)
    tokenizer.save(str(target / TOKENIZER))
    (target / DESCRIPTION).write_text(json.dumps(asdict(description), indent=2) + "\n", encoding="utf-8")
    (target / RUNTIME).write_text(module_source(PURPOSE, Runtime), encoding="utf-8")


def calibration(source: Path, items: Sequence[Item], most: int) -> dict[str, Iterator[dict[str, NDArray[np.float32]]]]:
    """Returns what the image graph in `source` is fed for at most `most` of the items' images, batch by batch."""
    description = Description.read(source)
    return {IMAGE: (image_inputs(batch, description) for batch in image_batches(items, most))}


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
    first: Any = model[0]
    processor: Any = first.processor.image_processor
    size, crop, patches = patch_settings(model) if first.config.model_type == PATCHED else frame(processor, directory)
    dimension = model.get_embedding_dimension()
    assert dimension is not None, "a dual encoder has one"
    default = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
    made = model.preprocess([{"text": "text"}])
    return Description(
        dimension=dimension,
        matryoshka_dimensions=matryoshka_dimensions(directory),
        prompt=default or "",
        text_inputs=tuple(name for name in KINDS_OF_TOKENS if name in made),
        size=size,
        crop=crop,
        patches=patches,
        resample=int(processor.resample),
        rescale=processor.rescale_factor if processor.do_rescale else 1.0,
        mean=tuple(processor.image_mean) if processor.do_normalize else (0.0, 0.0, 0.0),
        std=tuple(processor.image_std) if processor.do_normalize else (1.0, 1.0, 1.0),
    )


Frame = tuple[tuple[int, ...], tuple[int, int] | None, tuple[int, int, int] | None]
"""The description's `size`, `crop` and `patches`."""


def frame(processor: Any, directory: Path) -> Frame:
    """Returns how the images of a model of one image size are resized and cut. Raises `UsageError` if they are not."""
    if type(processor)._preprocess.__module__ != LIBRARY:
        raise refusal(directory, f"its images are prepared in a way of their own, by {type(processor).__name__}")
    size, crop = dict(processor.size or {}), dict(processor.crop_size or {}) if processor.do_center_crop else {}
    square = bool(size.get("height") and size.get("width"))
    one_size = square or (size.get("shortest_edge") and not size.get("longest_edge") and crop)
    if not processor.do_resize or processor.do_pad or not one_size:
        raise refusal(directory, "its images are not resized to one size")
    resized = (size["height"], size["width"]) if square else (size["shortest_edge"],)
    return resized, (crop["height"], crop["width"]) if crop else None, None


def patch_settings(model: SentenceTransformer) -> Frame:
    """Returns how images are cut into patches, for a model that leaves them their shape."""
    module: Any = model[0]
    side, most = module.processor.image_processor.patch_size, module.processor.image_processor.max_num_patches
    return (), None, (side, most, math.isqrt(module.config.vision_config.num_patches))


def refusal(directory: Path, problem: str) -> UsageError:
    return UsageError(
        f"{directory}: cannot be exported: {problem}",
        "Evaluate it as it is, or distill a student from it and export that.",
    )

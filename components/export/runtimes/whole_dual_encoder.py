"""A whole CLIP or SigLIP as it is served: numpy, ONNX Runtime, tokenizers and Pillow, nothing else.

Texts and images become tensors as transformers' own processors make them. `exporters/whole_dual_encoder.py` writes the
class, and what it refers to, to the `runtime.py` beside the graphs, which imports nothing of this project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from components.embedder.runtime import (
    MAX_IMAGE_PIXELS,
    Colours,
    ImageSource,
    UnreadableImage,
    described,
    for_each,
    graph,
    image_threads,
    load_image,
    provider_of,
    session,
    sum_of_parts,
)

DESCRIPTION, TOKENIZER, TEXT, IMAGE = "whole_dual_encoder.json", "tokenizer.json", "text.onnx", "image.onnx"
KINDS_OF_TOKENS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""What a text graph may take, and where an encoding of the tokenizer has it."""
SCALE_STEP = 1e-5


@dataclass(frozen=True)
class Description:
    """What `whole_dual_encoder.json` says about the graphs beside it.

    An image is resized with Pillow's filter `resample` to `size`, which is height and width, or to a shortest edge of
    `size[0]` pixels where it has one number; then its centre of height and width `crop` is cut out, unless that is
    None. Of a model that takes images of any shape, `patches` are the side of a patch in pixels, the most patches, and
    the side of the learnt table of positions. Brightness times `rescale`, less `mean`, divided by `std`, is what the
    graph takes. `prompt` stands before a text that has no instruction; `text_inputs` are the inputs of the text graph,
    of `KINDS_OF_TOKENS`.
    """

    dimension: int
    matryoshka_dimensions: tuple[int, ...]
    prompt: str
    text_inputs: tuple[str, ...]
    size: tuple[int, ...]
    crop: tuple[int, int] | None
    patches: tuple[int, int, int] | None
    resample: int
    rescale: float
    mean: Colours
    std: Colours

    @classmethod
    def read(cls, directory: Path) -> Description:
        return cls(**described(directory / DESCRIPTION))


class Runtime:
    """Encodes text, images, and both together, with the two graphs of one directory."""

    def __init__(
        self, directory: Path, threads: int | None = None, batch_size: int = 64, provider: str = "auto"
    ) -> None:
        self.description = Description.read(directory)
        self.batch_size = batch_size
        self.pool = image_threads(threads)
        self.tokenizer = Tokenizer.from_file(str(directory / TOKENIZER))  # which says how it cuts and pads
        self.text_session = session(graph(directory, "text"), threads, provider)
        self.image_session = session(graph(directory, "image"), threads, provider)
        self.provider = provider_of(self.image_session)

    def encode(
        self,
        texts: Sequence[str | None],
        images: Sequence[ImageSource | None],
        instructions: Sequence[str | None],
    ) -> np.ndarray:
        """Returns `(n, dimension)` float32, L2-normalised: each row's sum over the vectors of its text and its image.

        An instruction stands before the text; a row without text goes without. Every different text and image is
        encoded once, `batch_size` at a time. Raises `ValueError` if a row has neither text nor image.
        """
        prompts = [f"{instruction} " if instruction else self.description.prompt for instruction in instructions]
        prompted = [prompt + text if text else None for prompt, text in zip(prompts, texts, strict=True)]
        return sum_of_parts(
            prompted,
            images,
            instructions,
            self.encode_texts,
            self.encode_images,
            self.description.dimension,
            0.0,  # they are in the texts
            self.batch_size,
        )

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Returns `(n, dimension)`, L2-normalised."""
        vectors: np.ndarray = self.text_session.run(["sentence_embedding"], self.tokens(texts))[0]
        return vectors

    def encode_images(self, images: list[Any]) -> np.ndarray:
        """Returns `(n, dimension)`, L2-normalised. Raises `UnreadableImage`."""
        inputs = image_inputs(images, self.description, self.pool)
        vectors: np.ndarray = self.image_session.run(["image_embedding"], inputs)[0]
        return vectors

    def tokens(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Returns `(n, tokens)` int64 of each of the text graph's inputs."""
        encodings = self.tokenizer.encode_batch_fast(texts)
        return {
            name: np.array([getattr(encoding, KINDS_OF_TOKENS[name]) for encoding in encodings], np.int64)
            for name in self.description.text_inputs
        }


def image_inputs(
    images: Sequence[ImageSource], description: Description, pool: ThreadPoolExecutor | None = None
) -> dict[str, np.ndarray]:
    """Returns what the image graph takes of images. Raises `UnreadableImage`, also if one is far too narrow.

    `pixel_values (n, 3, height, width)` float32; or `pixel_values (n, patches, numbers of a patch)` and `positions (n,
    patches, places)`, the weights of the places in the table of positions: zeros where an image has fewer patches.
    """
    if description.patches:
        parts = zip(*for_each(lambda image: patched(load_image(image), description), images, pool), strict=True)
        return {name: np.stack(part) for name, part in zip(("pixel_values", "positions"), parts, strict=True)}

    def pixels_of(image: ImageSource) -> np.ndarray:
        return standardised(framed(load_image(image), description), description)

    pixels = for_each(pixels_of, images, pool)
    return {"pixel_values": np.stack(pixels).transpose(0, 3, 1, 2)}


def standardised(image: Image.Image, description: Description) -> np.ndarray:
    """Returns `(height, width, 3)` float32."""
    mean, std = (np.asarray(colours, np.float32) for colours in (description.mean, description.std))
    levels = ((np.arange(256) * description.rescale).astype(np.float32)[:, None] - mean) / std
    brightness = np.asarray(image)
    return np.stack([levels[brightness[..., colour], colour] for colour in range(3)], axis=-1)


def patched(image: Image.Image, description: Description) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels of the image's patches, and where each lies in the table of positions; see `image_inputs`."""
    assert description.patches is not None
    side, most, table = description.patches
    rows, columns = grid(image.height, image.width, side, most)
    resized = image.resize((columns * side, rows * side), Image.Resampling(description.resample))
    patches = standardised(resized, description).reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    places = np.einsum("ri,cj->rcij", interpolation(table, rows), interpolation(table, columns))
    pixels, positions = np.zeros((most, 3 * side**2), np.float32), np.zeros((most, table**2), np.float32)
    pixels[: rows * columns] = patches.reshape(rows * columns, -1)
    positions[: rows * columns] = places.reshape(rows * columns, -1)
    return pixels, positions


def grid(height: int, width: int, side: int, most: int) -> tuple[int, int]:
    """Returns how many rows and columns of patches an image is resized to, as transformers' `Siglip2ImageProcessor`
    finds the largest scale that leaves at most `most` patches: by halving."""

    def patches(scale: float) -> tuple[int, int]:
        return max(1, math.ceil(height * scale / side)), max(1, math.ceil(width * scale / side))

    low, high = SCALE_STEP / 10, 100.0
    while high - low >= SCALE_STEP:
        scale = (low + high) / 2
        if math.prod(patches(scale)) <= most:
            low = scale
        else:
            high = scale
    return patches(low)


def interpolation(places: int, wanted: int) -> np.ndarray:
    """Returns `(wanted, places)`: the weights by which torch resizes a row of `places` numbers to `wanted`, bilinear
    with antialias."""
    scale = places / wanted
    spread = max(scale, 1.0)
    centres = scale * (np.arange(wanted) + 0.5)
    distances = np.abs(np.arange(places) + 0.5 - centres[:, None]) / spread
    weights = np.maximum(1 - distances, 0)
    normalised: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
    return normalised


def framed(image: Image.Image, description: Description) -> Image.Image:
    """Returns the RGB image resized, and cut where the description says so; what lies outside of it is black.

    Raises `UnreadableImage` before one is resized that would become too large.
    """
    height, width = _resized(image, description.size)
    if height * width > MAX_IMAGE_PIXELS:
        raise UnreadableImage(f"the image is {image.width}x{image.height}: it is far too narrow")
    resized = image.resize((width, height), Image.Resampling(description.resample))
    if description.crop is None:
        return resized
    tall, wide = description.crop
    top, left = (height - tall) // 2, (width - wide) // 2
    return resized.crop((left, top, left + wide, top + tall))


def _resized(image: Image.Image, size: tuple[int, ...]) -> tuple[int, int]:
    """Returns the height and the width that the image is resized to."""
    if len(size) == 2:
        return size[0], size[1]
    longest = int(size[0] * max(image.size) / min(image.size))
    return (longest, size[0]) if image.width <= image.height else (size[0], longest)

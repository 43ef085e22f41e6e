"""What training reads again and again, computed once: pixels of images, outputs of frozen towers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util import batch_to_device
from torch import Tensor
from torch.nn import functional

from components.embedder.dual_encoder import DualEncoder, Precision, autocast
from components.embedder.runtime import load_image, square
from components.files import memory_mapped


def pixels(images: Sequence[Path], size: int, path: Path) -> NDArray[np.uint8]:
    """Returns `(n, 3, size, size)` uint8, memory-mapped from `path`: the images as the embedder scales them."""
    with ThreadPoolExecutor() as pool:

        def chunk(start: int, stop: int) -> NDArray[np.uint8]:
            decoded = pool.map(lambda image: np.asarray(square(load_image(image), size)), images[start:stop])
            return np.stack(list(decoded)).transpose(0, 3, 1, 2)

        return memory_mapped(path, (len(images), 3, size, size), np.uint8, chunk)


def resized(pixels: NDArray[np.uint8], size: int, path: Path) -> NDArray[np.uint8]:
    """Returns `(n, 3, size, size)` uint8, memory-mapped from `path`: each place the mean of those that it covers."""

    def chunk(start: int, stop: int) -> NDArray[np.uint8]:
        large = torch.from_numpy(np.array(pixels[start:stop])).float()
        return functional.interpolate(large, size, mode="area").round().byte().numpy()

    return memory_mapped(path, (len(pixels), 3, size, size), np.uint8, chunk)


def colours(encoder: DualEncoder) -> tuple[Tensor, Tensor]:
    """Returns the mean and the standard deviation of colours that the image tower expects, `(3, 1, 1)` each."""
    both = (encoder.description.image_mean, encoder.description.image_std)
    mean, std = (torch.tensor(values, device=encoder.model.device).view(3, 1, 1) for values in both)
    return mean, std


def pooled_texts(encoder: DualEncoder, texts: Sequence[str], path: Path, precision: Precision) -> NDArray[np.float32]:
    """Returns `(n, text width)` float32, memory-mapped from `path`: the text tower's pooled outputs."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    width, device = encoder.model.text_embed_dim, encoder.model.device

    def chunk(start: int, stop: int) -> NDArray[np.float32]:
        tokens = encoder.tokens([texts[row] for row in order[start:stop]])
        with torch.inference_mode(), autocast(precision, device):
            pooled = encoder.pool_text(**batch_to_device(tokens, device))
        return pooled.float().cpu().numpy()

    by_length = memory_mapped(path, (len(texts), width), np.float32, chunk)
    positions = np.empty(len(texts), np.int64)
    positions[order] = np.arange(len(texts))
    return by_length[positions]


def pooled_images(
    encoder: DualEncoder, pixels: NDArray[np.uint8], path: Path, precision: Precision
) -> NDArray[np.float32]:
    """Returns `(n, image width)` float32, memory-mapped from `path`: the image tower's pooled outputs."""
    mean, std = colours(encoder)

    def chunk(start: int, stop: int) -> NDArray[np.float32]:
        scaled = torch.from_numpy(np.array(pixels[start:stop])).to(mean.device).float() / 255
        with torch.inference_mode(), autocast(precision, mean.device):
            pooled = encoder.pool_images((scaled - mean) / std)
        return pooled.float().cpu().numpy()

    return memory_mapped(path, (len(pixels), encoder.model.vision_embed_dim), np.float32, chunk)

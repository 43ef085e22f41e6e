"""A dual encoder turned to its principal components: its first numbers say most, and no full cosine changes.

The rotation is that of the uncentred second moment of the training items' vectors, folded into both projections. What
a training with Matryoshka losses makes of the first numbers, a rotation makes of any model, and of few numbers better.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from components.corpus import Item
from components.embedder import TorchEmbedder, Vectors
from components.embedder.dual_encoder import DualEncoder, load, save
from components.embedder.runtime import DESCRIPTION
from components.errors import UsageError

MOST_ITEMS = 4096


def write_rotated(model: Path, items: Sequence[Item], directory: Path) -> None:
    """Writes the dual encoder in `model`, rotated by what it makes of the items, to `directory`.

    Raises `UsageError` if it is no dual encoder: no other class ends in projections that a rotation can be folded into.
    """
    if not (model / DESCRIPTION).is_file():
        raise UsageError(
            f"{model}: is no dual encoder, and only their projections can be rotated", "Set rotation: none."
        )
    encoder = load(model)
    fold(encoder, principal_axes(TorchEmbedder(model).encode(items[:MOST_ITEMS])))
    save(encoder, directory)


def principal_axes(vectors: Vectors) -> NDArray[np.float32]:
    """Returns `(dimension, dimension)`: orthonormal columns, along the first of which the vectors are longest."""
    _, axes = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    return np.ascontiguousarray(axes[:, ::-1], np.float32)


def fold(encoder: DualEncoder, rotation: NDArray[np.float32]) -> None:
    """Makes every vector of the encoder `vector @ rotation`, in place."""
    turn = torch.from_numpy(rotation.T.copy())
    with torch.no_grad():
        for projection in (encoder.model.text_projection, encoder.model.visual_projection):
            projection.weight.copy_(turn @ projection.weight)

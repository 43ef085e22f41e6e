"""Whether the first numbers of a vector still find the neighbours that the whole vector finds.

Source: A. Kusupati et al. 2022, Matryoshka Representation Learning. The agreement of a request is the share of its
nearest neighbours, among a sample of both sides, that its prefix finds too.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from components.embedder import Vectors
from components.sections import Positive, Section
from monitoring.permutations import Measured, Samples


class Settings(Section):
    """The prefix has `dimension` numbers, a quarter of them all if that is None. `anchors` rows are the sample."""

    name: Literal["prefix_agreement"] = "prefix_agreement"
    dimension: Positive | None = None
    neighbours: Positive = 10
    anchors: Positive = 512


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the mean agreement of the window less that of the reference."""
    samples = samples.embedded()
    vectors, size = samples.vectors, settings.dimension or max(1, samples.vectors.shape[1] // 4)
    anchors = samples.drawn(settings.anchors)
    whole = _nearest(vectors, anchors, settings.neighbours)
    prefix = _nearest(vectors[:, :size], anchors, settings.neighbours)
    agreement = (whole & prefix).sum(axis=1) / whole.sum(axis=1)
    of_window, of_reference = samples.means(agreement[:, None])
    change = (of_window - of_reference)[:, 0]
    return Measured(np.abs(change), float(change[0]), "agreement", {"dimension": size})


def _nearest(vectors: Vectors, anchors: np.ndarray, neighbours: int) -> np.ndarray:
    """Returns which anchors are nearest to each row by cosine, itself left out, `(n, anchors)` bool."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    cosines = unit @ unit[anchors].T
    cosines[anchors, np.arange(len(anchors))] = -np.inf
    count = min(neighbours, len(anchors) - 1)
    least = np.partition(cosines, len(anchors) - count, axis=1)[:, len(anchors) - count]
    found: np.ndarray = cosines >= least[:, None]
    return found

"""How far the vectors crowd into one direction: the mean cosine of pairs.

Source: K. Ethayarajh 2019, How Contextual are Contextualized Word Representations?
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from components.sections import Section
from monitoring.permutations import Measured, Numbers, Samples


class Settings(Section):
    name: Literal["anisotropy"] = "anisotropy"


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the mean cosine of the window's pairs less that of the reference's."""
    samples = samples.embedded()
    lengths = np.linalg.norm(samples.vectors, axis=1, keepdims=True)
    of_window, of_reference = samples.sums(samples.vectors / np.where(lengths > 0, lengths, 1))
    change = _mean_cosine(of_window, samples.sizes) - _mean_cosine(of_reference, samples.ways.shape[1] - samples.sizes)
    return Measured(np.abs(change), float(change[0]), "mean cosine", {})


def _mean_cosine(total: Numbers, count: Numbers) -> Numbers:
    found: Numbers = (np.einsum("bd,bd->b", total, total) - count) / (count * (count - 1))
    return found

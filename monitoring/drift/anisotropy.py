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
    of_window, of_reference = samples.vector_means
    change = _mean_cosine(of_window, samples.sizes) - _mean_cosine(of_reference, samples.others)
    return Measured(np.abs(change), float(change[0]), "mean cosine", {})


def _mean_cosine(mean: Numbers, count: Numbers) -> Numbers:
    """Returns the mean product of two different vectors of norm 1, from the mean vectors `(b, dimension)`."""
    found: Numbers = (np.einsum("bd,bd->b", mean, mean) * count - 1) / (count - 1)
    return found

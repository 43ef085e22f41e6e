"""How far the centres of the modalities lie apart, the two that are apart farthest.

Source: V. Liang et al. 2022, Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation
Learning.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import numpy as np

from components.sections import Positive, Section
from monitoring.permutations import Inapplicable, Measured, Numbers, Samples, largest


class Settings(Section):
    """A modality counts that has at least `fewest` requests among both samples."""

    name: Literal["modality_gap"] = "modality_gap"
    fewest: Positive = 50


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the window's gap less the reference's, of the pair of modalities where it changed most."""
    samples = samples.embedded()
    if "modality" not in samples.columns:
        raise Inapplicable("modality is not recorded on both sides")
    names, counts = np.unique(samples.columns["modality"], return_counts=True)
    kept = [str(name) for name, count in zip(names, counts, strict=True) if count >= settings.fewest]
    if len(kept) < 2:
        raise Inapplicable("there is one modality")
    centres = {name: _centres(samples.where(samples.columns["modality"] == name)) for name in kept}
    changes = {f"{one} and {other}": _gap(centres[one][0], centres[other][0]) - _gap(centres[one][1], centres[other][1])
               for one, other in combinations(kept, 2)}  # fmt: skip
    values, pair = largest({name: np.abs(change) for name, change in changes.items()})
    return Measured(values, float(changes[pair][0]), "distance", {"modalities": pair})


def _centres(samples: Samples) -> tuple[Numbers, Numbers]:
    return samples.vector_means


def _gap(one: Numbers, other: Numbers) -> Numbers:
    return np.asarray(np.linalg.norm(one - other, axis=1), np.float64)

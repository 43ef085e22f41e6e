"""Whether the shares of the slices changed: of modalities, languages, instructions, versions of images.

Source: K. Pearson 1900 (the chi-squared statistic of counts in categories), calibrated by permutations, which also
holds for rare categories. The largest standardised statistic of all columns is the test's.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.sections import Section
from monitoring.permutations import Inapplicable, Measured, Numbers, Samples, largest


class Settings(Section):
    """`columns` hold the names of slices; those that are not recorded are left out."""

    name: Literal["slice_shares"] = "slice_shares"
    columns: list[str] = Field(default_factory=lambda: ["modality", "language", "instruction"])


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the share of requests that would have to change their slice, of the column that changed most."""
    found = {name: _of_column(samples.columns[name], samples) for name in settings.columns if name in samples.columns}
    if not found:
        raise Inapplicable(f"none of {', '.join(settings.columns)} is recorded on both sides")
    values, column = largest({name: statistic for name, (statistic, _) in found.items()})
    changed = found[column][1]
    most = max(changed, key=lambda name: abs(changed[name]))
    detail = {"column": column, "slice": most, "change": changed[most]}
    return Measured(values, sum(map(abs, changed.values())) / 2, "of the requests", detail)


def _of_column(values: NDArray[np.str_], samples: Samples) -> tuple[Numbers, dict[str, float]]:
    names, category = np.unique(values, return_inverse=True)
    there = np.eye(len(names))[category]
    of_window, of_reference = samples.means(there)
    change = of_window - of_reference
    statistic: Numbers = (change**2 / there.mean(axis=0)).sum(axis=1)
    return statistic, {str(name): float(share) for name, share in zip(names, change[0], strict=True)}

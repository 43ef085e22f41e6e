"""What is wrong with the requests themselves: empty and too long ones, broken images, unknown languages, and images of
another mode or size.

Source: S. Schelter et al. 2018, Automating Large-Scale Data Quality Verification (completeness and constraints a
column); each share is compared as a difference, image areas by the Kolmogorov-Smirnov statistic.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from components.sections import Positive, Section
from monitoring.permutations import Flags, Inapplicable, Measured, Numbers, Samples, kolmogorov_smirnov, largest


class Settings(Section):
    name: Literal["data_quality"] = "data_quality"
    most_characters: Positive = 2000


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the change of the share of what changed most; of image sizes, the distance of distributions."""
    parts: dict[str, Numbers] = {}
    effects: dict[str, float] = {}
    for name, flags in faults(settings, samples).items():
        of_window, of_reference = samples.means(flags[:, None].astype(np.float64))
        change = (of_window - of_reference)[:, 0]
        parts[name], effects[name] = np.abs(change), float(change[0])
    if {"image_width", "image_height"} <= samples.columns.keys():
        area = samples.columns["image_width"] * samples.columns["image_height"]
        with_image = np.isfinite(area)
        if with_image.any():
            images = samples.where(with_image)
            parts["image size"] = kolmogorov_smirnov(area[with_image], images)
            effects["image size"] = float(parts["image size"][0])
    if not parts:
        raise Inapplicable("neither texts nor images are described on both sides")
    values, what = largest(parts)
    return Measured(values, effects[what], "of the requests", {"fault": what, **effects})


def faults(settings: Settings, samples: Samples) -> dict[str, Flags]:
    """Returns what may be wrong with a request, by name, and with which ones it is."""
    columns, found = samples.columns, {}
    if "modality" in columns:
        found["empty"] = columns["modality"] == ""
    if "text_length" in columns:
        found["too long"] = columns["text_length"] > settings.most_characters
    if {"modality", "image_mode"} <= columns.keys():
        has_image = np.isin(columns["modality"], ("image", "composed"))
        found["broken image"] = has_image & (columns["image_mode"] == "")
        modes = np.unique(columns["image_mode"][has_image & (columns["image_mode"] != "")])
        found |= {f"image mode {mode}": columns["image_mode"] == mode for mode in modes}
    if {"language", "text_length"} <= columns.keys():
        found["unknown language"] = (columns["language"] == "") & (columns["text_length"] > 0)
    return found

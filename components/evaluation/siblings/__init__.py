"""Siblings of MMEB: suites made of a data set's own sets, each of which shows one ability, and the numbers for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from components.evaluation.sets import Suite
from components.evaluation.siblings import control, geometry, mixed_modality, modality_use, multilingual, robustness
from components.evaluation.vectors import Side
from components.scores import Scores

Build = Callable[[Suite, Path], Suite]
Measure = Callable[[Suite, Scores, Mapping[str, tuple[Side, Side]]], dict[str, float]]


@dataclass(frozen=True)
class Sibling:
    """`build` returns the suite made of another one; pictures that it makes are written to the folder it is given.

    `measure` returns the sibling's numbers by name, of that suite, of a model's scores on it, and of the vectors of
    queries and candidates by set.
    """

    build: Build
    measure: Measure


def _without_pictures(build: Callable[[Suite], Suite]) -> Build:
    return lambda base, pictures: build(base)


SIBLINGS: dict[str, Sibling] = {
    "control": Sibling(_without_pictures(control.build), control.measure),
    "geometry": Sibling(_without_pictures(geometry.build), geometry.measure),
    "mixed-modality": Sibling(_without_pictures(mixed_modality.build), mixed_modality.measure),
    "modality-use": Sibling(_without_pictures(modality_use.build), modality_use.measure),
    "multilingual": Sibling(_without_pictures(multilingual.build), multilingual.measure),
    "robustness": Sibling(robustness.build, robustness.measure),
}

__all__ = ["SIBLINGS", "Sibling"]

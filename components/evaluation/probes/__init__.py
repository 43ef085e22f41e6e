"""Probes: suites made of a data set's own sets, each of which shows one ability, and the numbers for it.

`NAME.py` is the probe of the suite `NAME`, with hyphens for underscores. It holds

* `build(base, images)`, which returns the suite made of another one, and writes images that it makes to the folder it
  is given;
* `measure(suite, scores, sides)`, which returns the probe's numbers by name, of that suite, of a model's scores on it,
  and of the vectors of queries and candidates by set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from components.evaluation.sets import Suite
from components.evaluation.vectors import Side
from components.found_by_name import FoundByName
from components.scores import Scores

FOUND = FoundByName(__name__, "suite")


class Probe(Protocol):
    def build(self, base: Suite, images: Path) -> Suite: ...

    def measure(self, suite: Suite, scores: Scores, sides: Mapping[str, tuple[Side, Side]]) -> dict[str, float]: ...


def probe_names() -> list[str]:
    """Returns the names of all suites that are probes."""
    return [name.replace("_", "-") for name in FOUND.names()]


def probe(suite: str) -> Probe:
    """Returns the probe of a suite. Raises `ValueError` that names the known ones if there is none."""
    return cast(Probe, FOUND.module(suite.replace("-", "_")))


__all__ = ["Probe", "probe", "probe_names"]

"""What a version in the shadow answers beside stable: how near, how the found images overlap, how fast.

The cosine says something of versions of one training (another precision, another runtime); versions that were trained
apart have vectors that cannot be compared, and only the overlap speaks, since each searches in its own index.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from components.files import write_text
from serving.releases.judge import TAIL
from serving.routes import Routes
from serving.search import Index, read_index, search

REPORT = "shadow.json"
KEPT = 10_000
"""Comparisons of which the quantiles are taken, the latest."""
WRITE_SECONDS = 1.0
FIRST = 10


class Comparison(NamedTuple):
    """One mirrored item. `cosine` is None where the vectors differ in length, `overlap` (the share of the first 10
    images that both find) where there are no indexes."""

    cosine: float | None
    overlap: float | None
    stable_ms: float
    shadow_ms: float


@dataclass(frozen=True)
class ShadowReport:
    """What `compared` mirrored items have shown; `failed` ones the shadow did not answer. Measures are those of the
    latest `KEPT` items, None where there are none."""

    version: int
    compared: int
    failed: int
    least_cosine: float | None
    median_cosine: float | None
    mean_overlap: float | None
    stable_p50_ms: float | None
    stable_p95_ms: float | None
    shadow_p50_ms: float | None
    shadow_p95_ms: float | None


def compare(
    stable: np.ndarray, shadow: np.ndarray, milliseconds: tuple[float, float], indexes: tuple[Index, Index] | None
) -> list[Comparison]:
    """Returns one comparison a row of the answers of stable and of the shadow to the same items, `(n, dimension)` each,
    L2-normalised. Takes milliseconds with indexes: call it where nobody waits."""
    same_length = stable.shape == shadow.shape
    return [
        Comparison(
            float(one @ other) if same_length else None,
            overlap(indexes, one, other) if indexes else None,
            *milliseconds,
        )
        for one, other in zip(stable, shadow, strict=True)
    ]


def overlap(indexes: tuple[Index, Index], stable: np.ndarray, shadow: np.ndarray) -> float | None:
    """Returns the share of the first 10 images that stable finds in its index and the shadow in its own; None for
    vectors that were cut shorter than those of the indexes."""
    if (len(stable), len(shadow)) != tuple(index.vectors.shape[1] for index in indexes):
        return None
    found = [
        {hit.image_path for hit in search(index, vector, FIRST)}
        for index, vector in zip(indexes, (stable, shadow), strict=True)
    ]
    return len(found[0] & found[1]) / max(1, min(FIRST, len(found[0])))


class ShadowLog:
    """Gathers comparisons and keeps the report in `home` up to date, written at most every `WRITE_SECONDS`."""

    def __init__(self, home: Path, version: int) -> None:
        self.home = home
        self.version = version
        self.compared = self.failed = 0
        self.latest: deque[Comparison] = deque(maxlen=KEPT)
        self.written = float("-inf")

    def add(self, comparisons: Sequence[Comparison]) -> None:
        self.compared += len(comparisons)
        self.latest.extend(comparisons)
        self._write()

    def fail(self, items: int = 1) -> None:
        self.failed += items
        self._write()

    def report(self) -> ShadowReport:
        cosines, overlaps, stable, shadow = (
            [value for value in column if value is not None]
            for column in list(zip(*self.latest, strict=True)) or [()] * 4
        )
        return ShadowReport(
            self.version, self.compared, self.failed, min(cosines, default=None), quantile(cosines, 0.5),
            float(np.mean(overlaps)) if overlaps else None, quantile(stable, 0.5), quantile(stable, TAIL),
            quantile(shadow, 0.5), quantile(shadow, TAIL),
        )  # fmt: skip

    def _write(self) -> None:
        if time.monotonic() - self.written >= WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Keeps the report as it is now: call it at the end too."""
        write_text(self.home / REPORT, json.dumps(asdict(self.report())) + "\n")
        self.written = time.monotonic()


def quantile(values: Sequence[float], which: float) -> float | None:
    return float(np.quantile(values, which)) if values else None


def read_report(home: Path) -> ShadowReport | None:
    """Returns what was last kept, also of a shadow that is over."""
    path = home / REPORT
    return ShadowReport(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def index_of(home: Path, version: int) -> Path:
    """Returns where the index of a version lies for comparisons."""
    return home / "index" / f"version-{version}.npz"


def open_indexes(home: Path, routes: Routes) -> tuple[Index, Index] | None:
    """Returns the indexes of stable and of the shadow over the same images, if both were made."""
    if routes.shadow is None:
        return None
    paths = index_of(home, routes.stable.version), index_of(home, routes.shadow.version)
    return (read_index(paths[0]), read_index(paths[1])) if all(path.exists() for path in paths) else None

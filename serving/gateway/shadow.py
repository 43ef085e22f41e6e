"""Copies of requests for a version that no user sees: sent after the answer, compared with it, dropped when busy."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving.client import Row
from serving.gateway.inference import Inference
from serving.gateway.metrics import Metrics
from serving.gateway.refusal import Refusal
from serving.gateway.windows import TargetWindow
from serving.releases.shadow import ShadowLog, compare, open_indexes
from serving.routes import Routes, Target
from serving.search import Index

WAITING = 16
SECONDS = 30.0


@dataclass(frozen=True)
class Copy:
    """An answered request: the vectors `(n, dimension)` are what its user got, after so many milliseconds."""

    routes: Routes
    target: Target
    rows: Sequence[Row]
    dimension: int | None
    vectors: np.ndarray
    milliseconds: float
    request_id: str


class Shadow:
    """One copy at a time is with Triton; at most `WAITING` wait, the rest are dropped. The report is kept in `home`."""

    def __init__(self, home: Path, inference: Inference, metrics: Metrics) -> None:
        self.home = home
        self.inference = inference
        self.metrics = metrics
        self.waiting: asyncio.Queue[Copy] = asyncio.Queue(WAITING)
        self.target: Target | None = None
        self.window = TargetWindow()
        self.log: ShadowLog | None = None
        self.indexes: tuple[Index, Index] | None = None

    def offer(
        self, routes: Routes, rows: Sequence[Row], dimension: int | None, vectors: Sequence[np.ndarray],
        milliseconds: float, request_id: str,
    ) -> None:  # fmt: skip
        """Takes a copy of an answered request if its turn comes up, and returns at once."""
        if routes.shadow is None or not vectors or random.random() >= routes.shadow_share:
            return
        try:
            copy = Copy(routes, routes.shadow, rows, dimension, np.stack(vectors), milliseconds, request_id)
            self.waiting.put_nowait(copy)
        except asyncio.QueueFull:
            self.metrics.shadows.labels(routes.shadow.version, "dropped").inc()

    async def run(self) -> None:
        """Compares copies until it is cancelled."""
        while True:
            await self.compare(await self.waiting.get())

    async def compare(self, copy: Copy) -> None:
        """Sends one copy and keeps how its answer differs; an error is counted."""
        if copy.target != self.target or self.log is None:
            self.target, self.window = copy.target, TargetWindow()
            self.log = ShadowLog(self.home, copy.target.version)
            self.indexes = await asyncio.to_thread(open_indexes, self.home, copy.routes)
        version = copy.target.version
        began = time.perf_counter()
        try:
            size = (await self.inference.limits(copy.target, SECONDS)).batch
            parts = [
                (
                    await self.inference.infer(
                        copy.target, copy.rows[start : start + size], copy.dimension, copy.request_id, SECONDS
                    )
                ).values
                for start in range(0, len(copy.rows), size)
            ]
        except Refusal:
            self.window.add(False, time.perf_counter() - began)
            self.metrics.shadows.labels(version, "failed").inc()
            self.log.fail(len(copy.rows))
            return
        seconds = time.perf_counter() - began
        answers = np.concatenate(parts)
        self.window.add(True, seconds)
        self.metrics.shadow_seconds.labels(version).observe(seconds)
        self.metrics.shadows.labels(version, "compared").inc()
        if not np.isfinite(answers).all():
            self.log.fail(len(copy.rows))
            return
        times = copy.milliseconds, seconds * 1000
        comparisons = await asyncio.to_thread(compare, copy.vectors, answers, times, self.indexes)
        for comparison in comparisons:
            if comparison.cosine is not None:
                self.metrics.shadow_cosine.labels(version).observe(comparison.cosine)
        self.log.add(comparisons)

    def facts(self) -> dict[str, Any]:
        """Returns how the compared vectors differ; None where nothing was compared."""
        found = self.log.report() if self.log else None
        return {
            **self.window.facts(),
            "compared": found.compared if found else 0,
            "cosine_median": found and found.median_cosine,
            "cosine_min": found and found.least_cosine,
            "overlap_of_10": found and found.mean_overlap,
        }

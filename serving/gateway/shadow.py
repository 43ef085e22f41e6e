"""Copies of requests for a version that no user sees: sent after the answer, compared with it, dropped when busy."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.client import Row
from serving.gateway.inference import Inference
from serving.gateway.metrics import Metrics
from serving.gateway.refusal import Refusal
from serving.gateway.windows import TargetWindow
from serving.routes import Routes, Target

WAITING = 16
SECONDS = 30.0
COMPARED = 256
NEIGHBOURS = 10


@dataclass(frozen=True)
class Copy:
    """An answered request: the vectors `(n, dimension)` are what its user got."""

    target: Target
    rows: Sequence[Row]
    dimension: int | None
    vectors: np.ndarray
    request_id: str


class Shadow:
    """One copy at a time is with Triton; at most `WAITING` wait, the rest are dropped."""

    def __init__(self, inference: Inference, metrics: Metrics) -> None:
        self.inference = inference
        self.metrics = metrics
        self.waiting: asyncio.Queue[Copy] = asyncio.Queue(WAITING)
        self.target: Target | None = None
        self.window = TargetWindow()
        self.pairs: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=COMPARED)

    def offer(
        self, routes: Routes, rows: Sequence[Row], dimension: int | None, vectors: Sequence[np.ndarray], request_id: str
    ) -> None:
        """Takes a copy of an answered request if its turn comes up, and returns at once."""
        if routes.shadow is None or not vectors or random.random() >= routes.shadow_share:
            return
        try:
            self.waiting.put_nowait(Copy(routes.shadow, rows, dimension, np.stack(vectors), request_id))
        except asyncio.QueueFull:
            self.metrics.shadows.labels(routes.shadow.version, "dropped").inc()

    async def run(self) -> None:
        """Compares copies until it is cancelled."""
        while True:
            await self.compare(await self.waiting.get())

    async def compare(self, copy: Copy) -> None:
        """Sends one copy and keeps how its answer differs; an error is counted."""
        if copy.target != self.target:
            self.target, self.window = copy.target, TargetWindow()
            self.pairs.clear()
        version = copy.target.version
        began = time.perf_counter()
        try:
            size = await self.inference.max_batch_size(copy.target, SECONDS)
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
            return
        seconds = time.perf_counter() - began
        answers = np.concatenate(parts)
        self.window.add(True, seconds)
        self.metrics.shadow_seconds.labels(version).observe(seconds)
        self.metrics.shadows.labels(version, "compared").inc()
        if answers.shape == copy.vectors.shape and np.isfinite(answers).all():
            self.pairs.extend(zip(copy.vectors, answers, strict=True))
            for cosine in (copy.vectors * answers).sum(axis=1):
                self.metrics.shadow_cosine.labels(version).observe(float(cosine))

    def facts(self) -> dict[str, Any]:
        """Returns how the last compared vectors differ; None where nothing was compared."""
        length = max((len(mine) for mine, _ in self.pairs), default=0)
        kept = [pair for pair in self.pairs if len(pair[0]) == length]
        if not kept:
            none = dict.fromkeys(("cosine_mean", "cosine_min", "overlap_of_10"))
            return {**self.window.facts(), "compared": 0, **none}
        mine, theirs = (np.stack(side) for side in zip(*kept, strict=True))
        cosines = (mine * theirs).sum(axis=1)
        return {
            **self.window.facts(),
            "compared": len(kept),
            "cosine_mean": float(cosines.mean()),
            "cosine_min": float(cosines.min()),
            "overlap_of_10": overlap(mine, theirs),
        }


def overlap(mine: np.ndarray, theirs: np.ndarray, neighbours: int = NEIGHBOURS) -> float | None:
    """Returns the mean share of common items among each item's nearest ones in two spaces, `(n, dimension)` each.

    None where there are too few items for a neighbourhood to mean anything.
    """
    count = len(mine)
    if count <= 2 * neighbours:
        return None
    near = []
    for vectors in (mine, theirs):
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -np.inf)
        near.append(np.argpartition(-scores, neighbours, axis=1)[:, :neighbours])
    return float(np.mean([len(set(a) & set(b)) / neighbours for a, b in zip(*near, strict=True)]))

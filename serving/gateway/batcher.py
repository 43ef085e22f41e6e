"""Batches across requests: what arrives while Triton works goes together in the next call; nothing waits longer."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from components.gateway import Gateway
from serving.client import MAX_BATCH_BYTES, Row, batches
from serving.gateway import traces
from serving.gateway.inference import Inference, Limits
from serving.gateway.metrics import Metrics
from serving.gateway.refusal import Refusal
from serving.routes import Target

Result = np.ndarray | Refusal
"""The vector of an item `(dimension,)`, or why it has none."""


@dataclass(frozen=True)
class Answer:
    """One result an item, and the version that has answered; None where none was asked."""

    results: list[Result]
    version: int | None


@dataclass(eq=False)
class Job:
    """Rows of one request that travel together."""

    rows: Sequence[Row]
    request_id: str
    deadline: float
    answer: asyncio.Future[Answer]


@dataclass(eq=False)
class Lane:
    """What waits for one target and one length of vectors."""

    target: Target
    dimension: int | None
    limits: Limits
    jobs: deque[Job] = field(default_factory=deque)
    in_flight: int = 0


class Batcher:
    """Sends rows to Triton; raises `Refusal` 503 rather than let more than `max_waiting_items` wait."""

    def __init__(self, inference: Inference, settings: Gateway, metrics: Metrics) -> None:
        self.inference = inference
        self.settings = settings
        self.metrics = metrics
        self.lanes: dict[tuple[Target, int | None], Lane] = {}
        self.waiting = 0
        self.running: set[asyncio.Task[None]] = set()

    async def encode(
        self, target: Target, rows: Sequence[Row], dimension: int | None, request_id: str, deadline: float
    ) -> Answer:
        """Returns the results of the rows, in their order; `deadline` is one of `time.monotonic`.

        A caller that is cancelled takes what still waits out of the queue. Raises `Refusal` where Triton answers none.
        """
        if not rows:
            return Answer([], None)
        with traces.of_inference():
            traces.describe(model=target.model, version=target.version, items=len(rows))
            return await self._encode(target, rows, dimension, request_id, deadline)

    async def _encode(
        self, target: Target, rows: Sequence[Row], dimension: int | None, request_id: str, deadline: float
    ) -> Answer:
        limits = await self.inference.limits(target, deadline - time.monotonic())
        if self.waiting + len(rows) > self.settings.max_waiting_items:
            raise Refusal(503, f"{self.waiting} items wait already; come back later", code="overloaded", retry_after=1)
        lane = self.lanes.setdefault((target, dimension), Lane(target, dimension, limits))
        lane.limits = limits
        loop = asyncio.get_running_loop()
        jobs = [Job(part, request_id, deadline, loop.create_future()) for _, part in batches(rows, limits.batch)]
        lane.jobs.extend(jobs)
        self.waiting += len(rows)
        self._send(lane)
        try:
            answers = [await jobs[0].answer] if len(jobs) == 1 else await asyncio.gather(*(job.answer for job in jobs))
        except BaseException:
            self._forget(lane, jobs)
            raise
        return joined(answers)

    def _forget(self, lane: Lane, jobs: Iterable[Job]) -> None:
        for job in jobs:
            if job in lane.jobs:
                lane.jobs.remove(job)
                self.waiting -= len(job.rows)
            job.answer.cancel()

    def _send(self, lane: Lane) -> None:
        """Gives Triton batches until as many are in flight as may be."""
        at_once = self.settings.in_flight or lane.limits.instances
        while lane.jobs and lane.in_flight < at_once:
            jobs, count, weight = list[Job](), 0, 0
            while lane.jobs:
                rows = lane.jobs[0].rows
                job_bytes = sum(len(value) for row in rows for value in row)
                if jobs and (count + len(rows) > lane.limits.batch or weight + job_bytes > MAX_BATCH_BYTES):
                    break
                jobs.append(lane.jobs.popleft())
                count, weight = count + len(rows), weight + job_bytes
            self.waiting -= count
            lane.in_flight += 1
            self.metrics.batch_items.observe(count)
            task = asyncio.create_task(self._run(lane, jobs))
            self.running.add(task)
            task.add_done_callback(self.running.discard)
        if not lane.jobs and not lane.in_flight:
            self.lanes.pop((lane.target, lane.dimension), None)

    async def _run(self, lane: Lane, jobs: Sequence[Job]) -> None:
        rows = [row for job in jobs for row in job.rows]
        request_id = ",".join(dict.fromkeys(job.request_id for job in jobs))
        seconds = max(job.deadline for job in jobs) - time.monotonic()
        try:
            answer = await self._answer(lane, rows, request_id, seconds)
        except Exception as error:
            for job in jobs:
                if not job.answer.done():
                    job.answer.set_exception(error)
        else:
            start = 0
            for job in jobs:
                if not job.answer.done():
                    job.answer.set_result(Answer(answer.results[start : start + len(job.rows)], answer.version))
                start += len(job.rows)
        finally:
            lane.in_flight -= 1
            self._send(lane)

    async def _answer(self, lane: Lane, rows: Sequence[Row], request_id: str, seconds: float) -> Answer:
        """Returns the results; where Triton refuses rows together, each is asked for by itself, so that it fails alone.

        Triton puts those together again and finds the bad ones by halving.
        """
        try:
            found = await self.inference.infer(lane.target, rows, lane.dimension, request_id, seconds)
            return Answer(results_of(found.values), found.version)
        except Refusal as refusal:
            if refusal.code != "bad_item":
                raise
            if len(rows) == 1:
                return Answer([refusal], None)
        began = time.monotonic()
        alone = [self._answer(lane, [row], request_id, seconds + began - time.monotonic()) for row in rows]
        return joined(await asyncio.gather(*alone))


def results_of(vectors: np.ndarray) -> list[Result]:
    """Returns each vector; a refusal for one that has values that are no numbers, whoever shares the batch with it."""
    results: list[Result] = list(vectors)
    numbers = np.isfinite(vectors)
    for position in () if numbers.all() else np.flatnonzero(~numbers.all(axis=1)):
        results[position] = Refusal(422, "the model has no vector for this item", code="no_vector")
    return results


def joined(answers: Sequence[Answer]) -> Answer:
    """Returns the answers as one. Raises `Refusal` if several versions gave them: their vectors do not compare."""
    versions = {answer.version for answer in answers if answer.version is not None}
    if len(versions) > 1:
        raise Refusal(503, "the version has changed meanwhile; ask again", code="version_changed", retry_after=1)
    return Answer([result for answer in answers for result in answer.results], next(iter(versions), None))

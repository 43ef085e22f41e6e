"""What answers a request: the parts of the gateway put together, without HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from components.gateway import Gateway
from serving.client import Row
from serving.gateway.batcher import Answer, Batcher
from serving.gateway.inference import Inference, address_in
from serving.gateway.items import RemoteImage, checked_image, item_of, items_of
from serving.gateway.keys import Key, Keys
from serving.gateway.limits import HeldBytes, Rates
from serving.gateway.metrics import Metrics
from serving.gateway.openai_api import EmbeddingRequest, Taken, parse
from serving.gateway.readiness import Readiness
from serving.gateway.recording import Recorder
from serving.gateway.refusal import Refusal
from serving.gateway.remote_images import Fetcher
from serving.gateway.routing import Judge, Router
from serving.gateway.shadow import Shadow
from serving.routes import Target

LARGE_BYTES = 256_000
LARGE_AT_ONCE = 2
Read = TypeVar("Read")


@dataclass(frozen=True)
class Embedded:
    """The results of a request, its form, and what has answered."""

    request: EmbeddingRequest
    results: Sequence[np.ndarray | Refusal]
    target: Target
    version: int


class Service:
    """One gateway over the Triton and the routes of `home`."""

    def __init__(
        self, home: Path, settings: Gateway, judge: Judge | None = None, fetcher: Fetcher | None = None
    ) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.keys = Keys(home)
        self.rates = Rates()
        self.router = Router(home, judge)
        self.held = HeldBytes(settings.max_held_bytes)
        self.inference = Inference(lambda: settings.triton or address_in(home))
        self.batcher = Batcher(self.inference, settings, self.metrics)
        self.shadow = Shadow(home, self.inference, self.metrics)
        self.recorder = Recorder(home, settings.record_share, settings.record_raw, settings.redact)
        self.readiness = Readiness(self.inference, self.router)
        self.fetcher = fetcher
        if fetcher is None and settings.remote_images:
            self.fetcher = Fetcher(settings.remote_images, settings.max_image_bytes)
        self.large = asyncio.Semaphore(LARGE_AT_ONCE)
        self.metrics.watch("embedline_gateway_waiting_items", "Items that wait", lambda: self.batcher.waiting)
        self.metrics.watch("embedline_gateway_held_bytes", "Bytes of bodies in memory", lambda: self.held.held)
        self.metrics.watch("embedline_traffic_lost_rows", "Rows that could not be kept", self.recorder.lost)
        self.mirroring: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self.mirroring = asyncio.create_task(self.shadow.run())

    async def stop(self) -> None:
        if self.mirroring:
            self.mirroring.cancel()
            with suppress(asyncio.CancelledError):
                await self.mirroring
        if self.fetcher:
            await self.fetcher.close()
        await self.inference.close()
        await asyncio.to_thread(self.recorder.close)

    async def embed(self, body: bytes, key: Key | None, request_id: str) -> Embedded:
        """Returns the vectors that a request asks for. Raises `Refusal`."""
        deadline = time.monotonic() + self.settings.timeout_seconds
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                return await self._embed(body, key, request_id, deadline)
        except TimeoutError as error:
            raise Refusal(504, "the answer was not ready in time", code="timeout", retry_after=1) from error

    async def _embed(self, body: bytes, key: Key | None, request_id: str, deadline: float) -> Embedded:
        request, items = await self._read(body, self._asked)
        if key and key.rate:
            self.rates.spend(key.name, key.rate, len(items))
        target = self.router.choose(request.model, request.user or (key.name if key else request_id))
        found = await self._fetched(items)
        if request.on_error == "fail" and (refused := [item for item in found if isinstance(item, Refusal)]):
            raise refused[0]
        rows = [item for item in found if not isinstance(item, Refusal)]
        began = time.perf_counter()
        target, answer = await self._ask(target, rows, request.dimensions, request_id, deadline)
        milliseconds = (time.perf_counter() - began) * 1000
        results = merged(found, answer.results)
        if request.on_error == "fail" and (refused := [result for result in results if isinstance(result, Refusal)]):
            raise refused[0]
        pairs = zip(rows, answer.results, strict=True)
        good = [(row, result) for row, result in pairs if not isinstance(result, Refusal)]
        version = answer.version or target.version
        self.recorder.answered(
            request_id, [row for row, _ in good], [found for _, found in good], version, milliseconds
        )
        if target != self.router.routes.shadow:
            self.shadow.offer(
                self.router.routes,
                [row for row, _ in good],
                request.dimensions,
                [found for _, found in good],
                milliseconds,
                request_id,
            )
        return Embedded(request, results, target, version)

    async def took(self, body: bytes) -> None:
        """Takes feedback. Raises `Refusal` for what is none."""
        taken, hit = await self._read(body, self._taken)
        self.recorder.took(taken.request_id, taken.rank, hit)

    async def _read(self, body: bytes, read: Callable[[bytes], Read]) -> Read:
        """Returns what a body says, read in a thread if it is large, so that others are answered meanwhile."""
        if len(body) < LARGE_BYTES:
            return read(body)
        async with self.large:
            return await asyncio.to_thread(read, body)

    def _taken(self, body: bytes) -> tuple[Taken, Row | None]:
        taken = parse(Taken, body)
        hit = None if taken.hit is None else item_of(0, taken.hit, None, self.settings)
        if isinstance(hit, Refusal):
            raise hit
        if isinstance(hit, RemoteImage):
            raise Refusal(400, "the image of a hit is sent as a data URI", param="hit", code="invalid_image")
        return taken, hit

    def _asked(self, body: bytes) -> tuple[EmbeddingRequest, list[Row | RemoteImage | Refusal]]:
        request = parse(EmbeddingRequest, body)
        return request, items_of(request.input, request.instruction, self.settings)

    async def _fetched(self, items: Sequence[Row | RemoteImage | Refusal]) -> list[Row | Refusal]:
        """Returns the items with the images that they name by URL."""
        if not any(isinstance(item, RemoteImage) for item in items):
            return [item for item in items if not isinstance(item, RemoteImage)]
        return await asyncio.gather(*(self._fetch(position, item) for position, item in enumerate(items)))

    async def _fetch(self, position: int, item: Row | RemoteImage | Refusal) -> Row | Refusal:
        if not isinstance(item, RemoteImage):
            return item
        try:
            if self.fetcher is None:
                raise Refusal(400, "images by URL are switched off here: send a data URI", code="remote_images_off")
            return item.row(checked_image(await self.fetcher.fetch(item.url), self.settings))
        except Refusal as refusal:
            return refusal.of_item(position)

    async def _ask(
        self, target: Target, rows: Sequence[Row], dimension: int | None, request_id: str, deadline: float
    ) -> tuple[Target, Answer]:
        """Returns the answer and who gave it: stable where the canary cannot, or refuses what stable takes."""
        routes = self.router.routes
        if target != routes.canary or target == routes.stable:
            return target, await self._timed(target, rows, dimension, request_id, deadline)
        half = (deadline + time.monotonic()) / 2
        began = time.monotonic()
        try:
            async with asyncio.timeout(half - began):
                answer = await self.batcher.encode(target, rows, dimension, request_id, half)
            if not any(isinstance(result, Refusal) for result in answer.results):
                self.router.record(target, True, time.monotonic() - began)
                return target, answer
        except (Refusal, TimeoutError):
            pass  # stable answers now; that it does is the canary's error
        seconds = time.monotonic() - began
        answer = await self._timed(routes.stable, rows, dimension, request_id, deadline)
        self.router.record(target, False, seconds)
        self.metrics.fallbacks.labels(target.version).inc()
        return routes.stable, answer

    async def _timed(
        self, target: Target, rows: Sequence[Row], dimension: int | None, request_id: str, deadline: float
    ) -> Answer:
        began = time.monotonic()
        try:
            answer = await self.batcher.encode(target, rows, dimension, request_id, deadline)
        except Refusal as refusal:
            if refusal.status >= 500:
                self.router.record(target, False, time.monotonic() - began)
            raise
        self.router.record(target, True, time.monotonic() - began)
        return answer

    def routes(self) -> dict[str, Any]:
        """Returns what the routes are and how each target does."""
        routes = self.router.routes
        facts: dict[str, Any] = {"stable": self._facts(routes.stable)}
        if routes.canary:
            returned = self.router.returned
            reason = returned[1] if returned and returned[0] == routes.canary else None
            facts["canary"] = {**self._facts(routes.canary), "share": routes.canary_share, "returned": reason}
        if routes.shadow:
            facts["shadow"] = {
                **asdict(routes.shadow),
                "share": routes.shadow_share,
                **(self.shadow.facts() if self.shadow.target == routes.shadow else {"requests": 0, "errors": 0}),
            }
        return facts

    def _facts(self, target: Target) -> dict[str, Any]:
        return asdict(target) | self.router.window(target).facts()


def merged(items: Sequence[Row | Refusal], results: Sequence[np.ndarray | Refusal]) -> list[np.ndarray | Refusal]:
    """Returns one result an item: its refusal, or what was answered to it."""
    remaining = iter(results)
    merged: list[np.ndarray | Refusal] = []
    for position, item in enumerate(items):
        result = item if isinstance(item, Refusal) else next(remaining)
        merged.append(result.of_item(position) if isinstance(result, Refusal) else result)
    return merged

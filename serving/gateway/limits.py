"""What is refused before anything is decoded: too many bytes, too long a wait, too many items of a key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from components.gateway import Gateway
from serving.gateway.refusal import Refusal

MAX_SIGNS = 1_000_000
"""Of the signs that begin a JSON value, `[`, `{` and `,`: each costs many times its byte once it is read."""


class HeldBytes:
    """The bytes of all bodies in memory, bounded."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, count: int) -> None:
        """Raises `Refusal` 503 where too much would be held."""
        if self.held + count > self.limit:
            raise Refusal(503, "too many bytes are being worked on; come back later", code="overloaded", retry_after=1)
        self.held += count

    def give_back(self, count: int) -> None:
        self.held -= count


@asynccontextmanager
async def read_body(request: Request, settings: Gateway, held: HeldBytes) -> AsyncIterator[bytes]:
    """Yields the whole body, which counts as held until the block ends. Raises `Refusal` 413, 408 or 503, each before
    more is read, and `ClientDisconnect`."""
    limit, taken, parts = settings.max_bytes, 0, list[bytes]()
    too_large = Refusal(413, f"a request has at most {limit:,} bytes", code="too_many_bytes", closes=True)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large
    try:
        try:
            async with asyncio.timeout(settings.receive_seconds):
                async for part in request.stream():
                    held.take(len(part))
                    taken += len(part)
                    if taken > limit:
                        raise too_large
                    parts.append(part)
        except TimeoutError as error:
            raise Refusal(408, "the body has not arrived in time", code="slow_client", closes=True) from error
        body = b"".join(parts)
        parts.clear()
        if len(body) > MAX_SIGNS and sum(map(body.count, (b"[", b"{", b","))) > MAX_SIGNS:
            raise Refusal(413, "the body has too many values", code="too_many_values")
        yield body
    finally:
        held.give_back(taken)


class Rates:
    """A token bucket a key: `rate` items a second, saved up for one second at most.

    A request may overdraw it, and the key waits until it is paid; so a request of any size passes once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.buckets: dict[str, tuple[float, float]] = {}

    def spend(self, name: str, rate: float, items: int) -> None:
        """Raises `Refusal` 429, which says when to come back, while the bucket is empty."""
        now = self.clock()
        tokens, since = self.buckets.get(name, (rate, now))
        tokens = min(rate, tokens + (now - since) * rate)
        if tokens <= 0:
            self.buckets[name] = tokens, now
            raise Refusal(
                429,
                f"the key {name!r} may send {rate:g} items a second",
                code="rate_limit_exceeded",
                retry_after=-tokens / rate,
            )
        self.buckets[name] = tokens - items, now


__all__ = ["ClientDisconnect", "HeldBytes", "Rates", "read_body"]

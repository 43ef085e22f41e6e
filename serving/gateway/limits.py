"""What is refused before anything is decoded: too many bytes, too long a wait, too many items of a key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

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


async def read_body(request: Request, settings: Gateway, held: HeldBytes) -> bytes:
    """Returns the whole body, which counts as held until the caller gives it back. Raises `Refusal` 413, 408 or 503,
    each before more is read, and `ClientDisconnect`; then nothing counts as held."""
    announced = header(request, b"content-length")
    if announced.isdecimal() and int(announced) > settings.max_bytes:
        raise too_large(settings)
    parts, taken = list[bytes](), 0
    try:
        async with asyncio.timeout(settings.receive_seconds):
            more = True
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part, more = message.get("body", b""), message.get("more_body", False)
                held.take(len(part))
                taken += len(part)
                if taken > settings.max_bytes:
                    raise too_large(settings)
                parts.append(part)
        body = b"".join(parts)
        if len(body) > MAX_SIGNS and sum(map(body.count, (b"[", b"{", b","))) > MAX_SIGNS:
            raise Refusal(413, "the body has too many values", code="too_many_values")
    except BaseException as error:
        held.give_back(taken)
        if isinstance(error, TimeoutError):
            raise Refusal(408, "the body has not arrived in time", code="slow_client", closes=True) from error
        raise
    return body


def too_large(settings: Gateway) -> Refusal:
    return Refusal(413, f"a request has at most {settings.max_bytes:,} bytes", code="too_many_bytes", closes=True)


def header(request: Request, name: bytes) -> str:
    """Returns a header by its name in small letters, empty where it was not sent."""
    for each, value in request.scope["headers"]:
        if each == name:
            text: str = value.decode("latin-1")
            return text
    return ""


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


__all__ = ["ClientDisconnect", "HeldBytes", "Rates", "header", "read_body"]

"""Whether the gateway can answer: known by a real inference, never by what a server says of itself."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from serving.gateway.inference import Inference
from serving.gateway.refusal import Refusal
from serving.gateway.routing import Router

FRESH_SECONDS = 1.0
ANSWER_SECONDS = 5.0
PROBE = (b"ready", b"", b"")
LENGTH_TOLERANCE = 1e-3


class Readiness:
    """One inference a second at most, whoever asks; the answer says how old it is."""

    def __init__(self, inference: Inference, router: Router) -> None:
        self.inference = inference
        self.router = router
        self.lock = asyncio.Lock()
        self.checked = float("-inf")
        self.dimensions: dict[int, int] = {}
        self.found: dict[str, Any] = {}

    async def read(self) -> dict[str, Any]:
        """Returns `ready`, the `version` that has answered or the `reason`, and `age_seconds`."""
        async with self.lock:
            if time.monotonic() - self.checked >= FRESH_SECONDS:
                self.found = await self._ask()
                self.checked = time.monotonic()
        return {**self.found, "age_seconds": round(time.monotonic() - self.checked, 3)}

    async def _ask(self) -> dict[str, Any]:
        target = self.router.routes.stable
        try:
            answer = await self.inference.infer(target, [PROBE], None, "readyz", ANSWER_SECONDS)
        except Refusal as refusal:
            return {"ready": False, "reason": refusal.message}
        (vector,) = answer.values
        dimension = self.dimensions.setdefault(answer.version, len(vector))  # a version has one number of them
        if len(vector) != dimension or not abs(float(np.linalg.norm(vector)) - 1) <= LENGTH_TOLERANCE:  # nor NaN
            return {"ready": False, "reason": "the model answers a wrong vector"}
        return {"ready": True, "version": answer.version, "dimension": dimension}

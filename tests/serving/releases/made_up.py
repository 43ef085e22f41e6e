"""What a target of a release counted, as a test wrote it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TargetStats:
    """`serving.releases.judge.Counted` as plain numbers."""

    requests: int
    errors: int
    latencies_ms: Sequence[float]

"""The verdict of a validation: one finding for each expectation, and the result that a stage hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Finding:
    """The verdict on one expectation; `found` counts the rows of its frame that broke it, `places` are the first."""

    name: str
    suite: str
    severity: Severity
    meaning: str
    passed: bool
    found: int
    places: list[dict[str, Any]]


@dataclass(frozen=True)
class Result:
    """How many expectations were evaluated, those that failed, and numbers for the tracker by name."""

    evaluated: int
    failed: list[Finding]
    metrics: dict[str, float]

    @property
    def critical(self) -> list[Finding]:
        return [finding for finding in self.failed if finding.severity == "critical"]

    @property
    def warnings(self) -> list[Finding]:
        return [finding for finding in self.failed if finding.severity == "warning"]

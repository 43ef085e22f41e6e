"""The mean score of the sets as they are, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from components.evaluation.sets import Suite
from components.evaluation.vectors import Side
from components.scores import Scores


def build(base: Suite, images: Path) -> Suite:
    return base


def measure(suite: Suite, scores: Scores, sides: Mapping[str, tuple[Side, Side]]) -> dict[str, float]:
    return {"sets": float(len(sides)), "mean": sum(task.score for task in scores.tasks.values()) / len(scores.tasks)}

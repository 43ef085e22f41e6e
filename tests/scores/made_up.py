"""Scores that a test wrote down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from components.evaluation.metrics import REPORTED
from components.scores import Model, Scores, TaskScore


def task_score(meta_task: str, distribution: str | None, score: float, **changes: Any) -> TaskScore:
    """Returns the score of a set with ten queries of five candidates, one of them relevant, all metrics alike."""
    fields: dict[str, Any] = {
        "modality": "image", "metric": "hit@1", "interval": (max(score - 0.05, 0), min(score + 0.05, 1)),
        "queries": 10, "candidates": 5, "tie_rate": 0.0, "values": [score] * 10,
        "metrics": dict.fromkeys(REPORTED, score),
    }  # fmt: skip
    return TaskScore(meta_task=meta_task, distribution=distribution, score=score, **fields | changes)


def scores(name: str, tasks: Mapping[str, TaskScore], **changes: Any) -> Scores:
    """Returns the scores of a model, with the means over groups of sets unless they are given."""
    groups: dict[str, list[float]] = {"overall": [task.score for task in tasks.values()]}
    for task in tasks.values():
        for group in (task.meta_task, task.distribution):
            groups.setdefault(group or "", []).append(task.score)
    means = {group: float(np.mean(members)) for group, members in groups.items() if group}
    fields: dict[str, Any] = {
        "model": Model(name, f"fingerprint of {name}", 16, 5_200_000), "benchmark": "small", "dataset_digest": "d" * 64,
        "scorer": "2", "prompts": "p" * 64, "missing": [], "extra": [], "aggregates": means,
        "confidence": {"overall": (max(means["overall"] - 0.01, 0), min(means["overall"] + 0.01, 1))},
    }  # fmt: skip
    return Scores(tasks=dict(tasks), **fields | changes)


def of_values(values: dict[str, Any], **changes: Any) -> Scores:
    """Returns the scores of a model with these values by set and query."""
    tasks = {
        name: task_score(
            "retrieval", "IND", float(np.mean(each)), queries=len(each), candidates=10, values=[*map(float, each)]
        )
        for name, each in values.items()
    }
    fields: dict[str, Any] = {
        "model": Model("model", "fingerprint", 16, 7), "benchmark": "small", "dataset_digest": "data", "scorer": "2",
        "prompts": "prompts", "missing": [], "extra": [], "aggregates": {}, "confidence": {},
    }  # fmt: skip
    return Scores(tasks=tasks, **fields | changes)


def with_task(scores: Scores, name: str, **changes: Any) -> Scores:
    """Returns the scores with changes in those of one set."""
    return replace(scores, tasks=scores.tasks | {name: replace(scores.tasks[name], **changes)})


def without_task(scores: Scores, name: str) -> Scores:
    return replace(scores, tasks={other: task for other, task in scores.tasks.items() if other != name})

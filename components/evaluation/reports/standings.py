"""Models beside each other on one benchmark: their sets, the means over groups of sets, and what to know of a score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from components.errors import UsageError
from components.evaluation.metrics import parse
from components.evaluation.report import TIE_RATE_SHOWN
from components.scores import Scores, TaskScore


@dataclass(frozen=True)
class Standings:
    """Our models by name, and the scores of `others`, 0 to 1, by model and set.

    Raises `UsageError` unless all our scores are of one benchmark, data set and scorer: they would not compare.
    """

    scores: Mapping[str, Scores]
    others: Mapping[str, Mapping[str, float]]

    def __post_init__(self) -> None:
        identities = {(model.benchmark, model.dataset_digest, model.scorer) for model in self.scores.values()}
        if len(identities) != 1:
            raise UsageError(
                f"the scores are of {len(identities)} different benchmarks, data sets or scorers",
                "Name the score files of one benchmark, made from the same data by the same scorer.",
            )

    @cached_property
    def tasks(self) -> dict[str, TaskScore]:
        """Every set that one of our models was scored on."""
        found: dict[str, TaskScore] = {}
        for model in self.scores.values():
            found |= {name: task for name, task in model.tasks.items() if name not in found}
        return found

    @property
    def unscored(self) -> list[str]:
        """The sets that are missing or extra, and have no score of any of our models."""
        named = {name for model in self.scores.values() for name in (*model.missing, *model.extra)}
        return sorted(named - self.tasks.keys())

    @cached_property
    def published(self) -> dict[str, Mapping[str, float]]:
        """The scores of those others that have a set of this benchmark."""
        return {name: scores for name, scores in self.others.items() if scores.keys() & self.tasks.keys()}

    @property
    def several(self) -> bool:
        return len(self.scores) > 1

    @property
    def meta_tasks(self) -> dict[str, list[str]]:
        """The sets of each meta-task."""
        grouped: dict[str, list[str]] = {}
        for name, task in self.tasks.items():
            grouped.setdefault(task.meta_task, []).append(name)
        return grouped

    @property
    def distributions(self) -> list[str]:
        return sorted({task.distribution for task in self.tasks.values() if task.distribution})

    @property
    def modalities(self) -> list[str]:
        return list(dict.fromkeys(task.modality for task in self.tasks.values()))

    def is_first(self, name: str) -> bool:
        return name == next(iter(self.scores))

    def ours(self, group: str) -> dict[str, float | None]:
        return {name: model.aggregates.get(group) for name, model in self.scores.items()}

    def theirs(self, group: str) -> dict[str, float]:
        """Returns the mean of each published model that has every set of a group; none if all our models lack it."""
        complete = [model for model in self.scores.values() if group in model.aggregates]
        members = [
            name
            for model in complete[:1]
            for name, task in model.tasks.items()
            if group in ("overall", task.modality, task.meta_task, task.distribution)
        ]
        return {
            name: math.fsum(scores[member] for member in members) / len(members)
            for name, scores in self.published.items()
            if members and scores.keys() >= set(members)
        }


def flags(name: str, model: Scores) -> dict[str, str]:
    """Returns what a reader of a model's score on a set should know: the kind of thing, and in words."""
    found = {kind: kind for kind, sets in (("missing", model.missing), ("extra", model.extra)) if name in sets}
    if task := model.tasks.get(name):
        if task.tie_rate >= TIE_RATE_SHOWN:
            found["ties"] = f"ties {task.tie_rate:.1%}"
        if task.interval[0] <= (chance(task) or -1):
            found["not above chance"] = "not above chance"
    return found


def chance(task: TaskScore) -> float | None:
    """Returns hit@k of a random order, None if the metric is another or a query may have several relevant candidates.

    Where recall is the same as hit, and not 0, every query has one.
    """
    metric, k = parse(task.metric)
    hit, recall = task.metrics["hit@10"], task.metrics["recall@10"]
    if metric != "hit" or not hit or not math.isclose(hit, recall, rel_tol=1e-9):
        return None
    return min(k / task.candidates, 1.0)

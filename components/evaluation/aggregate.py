"""From the scores of sets to the means that MMEB publishes; without the complete list of sets there is no mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from components.errors import EmbedlineError
from components.evaluation.benchmark import Task
from components.scores.intervals import mean_interval

CONFIDENCE = 0.95


def require_complete(found: Collection[str], tasks: Collection[str]) -> None:
    """Raises `EmbedlineError` naming every set of `tasks` that was not found, and every one found beside them."""
    missing, extra = sorted(set(tasks) - set(found)), sorted(set(found) - set(tasks))
    defects = [f"{name}: is missing" for name in missing]
    defects += [f"{name}: is no evaluation set of the data set's manifest" for name in extra]
    if not tasks:
        defects.append("the data set's manifest names no evaluation set")
    if defects:
        raise EmbedlineError(
            "no overall score: " + "; ".join(defects),
            "Get the complete data set with `dvc checkout` or `embedline ingest`.",
        )


def aggregates(scores: Mapping[str, float], tasks: Mapping[str, Task]) -> dict[str, float]:
    """Returns the plain means over sets that MMEB publishes: `overall` (over all sets, not over meta-tasks), each
    distribution (`IND`, `OOD`), each meta-task, and each modality if there are several.

    A group of which a set is missing has no mean. Raises `EmbedlineError` if a set is no set of the benchmark.
    """
    if extra := sorted(set(scores) - set(tasks)):
        require_complete(extra, {})
    means = {}
    for group, members in groups(tasks).items():
        if all(name in scores for name in members):
            means[group] = float(np.mean([scores[name] for name in members]))
    return means


def groups(tasks: Mapping[str, Task]) -> dict[str, list[str]]:
    """Returns the sets of each group that has a mean, `overall` first."""
    found: dict[str, list[str]] = {"overall": list(tasks)}
    several = len({task.modality for task in tasks.values()}) > 1
    for key in ("distribution", "meta_task", *(["modality"] if several else [])):
        for group in sorted({getattr(task, key) for task in tasks.values()} - {None}):
            found[group] = [name for name, task in tasks.items() if getattr(task, key) == group]
    return found


def overall_interval(values: Mapping[str, NDArray[np.float64]]) -> tuple[float, float]:
    """Returns the 95 % interval of the overall score, from the values of the queries (0 to 1) by set."""
    low, high = mean_interval([values[name] for name in sorted(values)], CONFIDENCE)
    return float(low), float(high)

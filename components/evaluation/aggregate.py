"""From the scores of sets to the means that MMEB publishes; without the complete list of sets there is no mean."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from components.corpus import EvaluationTask
from components.errors import EmbedlineError

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


def aggregates(scores: Mapping[str, float], tasks: Mapping[str, EvaluationTask]) -> dict[str, float]:
    """Returns the plain means over sets: `overall`, each distribution (`IND`, `OOD`), each meta-task.

    Raises as `require_complete` does.
    """
    require_complete(scores, tasks)
    groups: dict[str, list[float]] = {"overall": list(scores.values())}
    for key in ("distribution", "meta_task"):
        for group in sorted({getattr(task, key) for task in tasks.values()}):
            groups[group] = [score for name, score in scores.items() if getattr(tasks[name], key) == group]
    return {group: float(np.mean(members)) for group, members in groups.items()}


def overall_interval(hits: Mapping[str, NDArray[np.float64]], samples: int) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the overall score; queries are drawn anew within each set.

    Drawing how often each different hit occurs is the same bootstrap in memory that does not grow with the queries.
    """
    generator = np.random.default_rng(0)
    overall = np.zeros(samples)
    for name in sorted(hits):
        values, counts = np.unique(hits[name], return_counts=True)
        queries = counts.sum()
        overall += generator.multinomial(queries, counts / queries, size=samples) @ values / queries / len(hits)
    low, high = np.quantile(overall, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)

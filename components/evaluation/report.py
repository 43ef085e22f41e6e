"""One model's scores on the sets of a benchmark, as the gate reads them and as a person does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from components.errors import UsedWrongly
from components.evaluation.aggregate import aggregates, overall_interval
from components.evaluation.config import Evaluation
from components.evaluation.metrics import REPORTED, Ranks, values
from components.evaluation.scoring import joined, ranks
from components.evaluation.sets import EvaluationSet, Suite
from components.evaluation.vectors import AnyEmbedder, Progress, Side, cached_vectors, similarity

SCORER = "3"
"""Rises with every change that can change a score; scores of different scorers do not compare."""
BATCHES_PER_CHUNK = 8
TIE_RATE_SHOWN = 0.005


@dataclass(frozen=True)
class Model:
    name: str
    fingerprint: str
    dimension: int
    parameters: int | None


@dataclass(frozen=True)
class TaskScore:
    """One set: `score` is the mean of `values`, one a query, `interval` its 95 % interval over the queries.

    `tie_rate` is the share of queries whose value hangs on the order of tied candidates, `candidates` the largest
    number of different ones that a query has, `metrics` the means of other metrics.
    """

    modality: str
    meta_task: str
    distribution: str | None
    metric: str
    score: float
    interval: tuple[float, float]
    queries: int
    candidates: int
    tie_rate: float
    values: list[float]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Scores:
    """A score file: all numbers unrounded, and the identity of model, data, scorer and prompts that they belong to.

    `missing` and `extra` are sets of the benchmark without a score, and scores without a set; with either there is no
    overall.
    """

    model: Model
    benchmark: str
    dataset_digest: str
    scorer: str
    prompts: str
    tasks: dict[str, TaskScore]
    missing: list[str]
    extra: list[str]
    aggregates: dict[str, float]
    confidence: dict[str, tuple[float, float]]
    items_per_second: float

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(asdict(self), allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Raises `UsedWrongly` if the file is no score file of this scorer."""
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            scorer = content["scorer"]
        except (ValueError, TypeError, KeyError) as error:
            raise UsedWrongly(f"{path}: is no score file", "Name one that `embedline evaluate` has written.") from error
        if scorer != SCORER:
            raise UsedWrongly(
                f"{path}: was written by scorer {scorer}, this is scorer {SCORER}", "Score the model again."
            )
        return cls(**content | {
            "model": Model(**content["model"]),
            "tasks": {
                name: TaskScore(**task | {"interval": tuple(task["interval"])})
                for name, task in content["tasks"].items()
            },
            "confidence": {name: tuple(interval) for name, interval in content["confidence"].items()},
        })  # fmt: skip


def evaluate(
    embedder: AnyEmbedder, model: Model, suite: Suite, config: Evaluation, cache: Path, progress: Progress
) -> Scores:
    """Returns the scores of a model on the sets of a suite, under the name that `model` gives it.

    Each different item is encoded once; vectors are kept in the folder `cache`. Raises as `cached_vectors` does: there
    are no scores of a broken vector.
    """
    chunk = config.batch_size * BATCHES_PER_CHUNK
    sides, speed = cached_vectors(embedder, model.name, model.fingerprint, suite, chunk, cache, progress)
    return score(model, suite, sides, speed)


def score(model: Model, suite: Suite, sides: Mapping[str, tuple[Side, Side]], speed: float) -> Scores:
    """Returns the scores of a model whose vectors are there: `sides` by set, encoded at `speed` items a second."""
    tasks = {questions.name: _score(questions, *sides[questions.name]) for questions in suite.sets}
    means = aggregates({name: task.score for name, task in tasks.items()}, suite.benchmark.tasks)
    per_query = {name: np.array(task.values) for name, task in tasks.items()}
    intervals = {"overall": overall_interval(per_query)} if "overall" in means else {}
    return Scores(
        model, suite.benchmark.name, suite.digest, SCORER, suite.prompts, tasks, suite.missing, [], means, intervals,
        speed,
    )  # fmt: skip


def table(scores: Mapping[str, Scores]) -> Table:
    """Returns a table in percent: a column a model; overall with its interval, the other means, then every set.

    A set whose queries tie is marked with the share that does.
    """
    grid = Table("score, %", title="Scores")
    for name in scores:
        grid.add_column(name, justify="right")
    models = list(scores.values())
    for group in dict.fromkeys(group for model in models for group in model.aggregates):
        cells = [_aggregate_cell(model, group) for model in models]
        grid.add_row(group, *cells, style="bold" if group == "overall" else None)
    grid.add_section()
    for task in sorted({task for model in models for task in model.tasks}):
        grid.add_row(task, *(_task_cell(model.tasks.get(task)) for model in models))
    grid.add_section()
    grid.add_row("items a second", *(f"{model.items_per_second:,.0f}" for model in models))
    grid.add_row("parameters", *(f"{model.model.parameters:,}" if model.model.parameters else "-" for model in models))
    return grid


def ranked(questions: EvaluationSet, queries: Side, candidates: Side) -> Ranks:
    """Returns where the relevant candidates of a set stand."""
    scores, asked = similarity(queries, candidates), queries.rows(questions.queries)
    pools = [
        (pool.rows, ranks(scores, asked[pool.rows], candidates.rows(pool.candidates), pool.relevant, pool.grades))
        for pool in questions.pools
    ]
    return joined(pools, len(asked))


def _score(questions: EvaluationSet, queries: Side, candidates: Side) -> TaskScore:
    found = ranked(questions, queries, candidates)
    task = questions.task
    scored = values(found, task.metric)
    return TaskScore(
        task.modality, task.meta_task, task.distribution, task.metric, float(scored.mean()),
        overall_interval({"": scored}), len(scored), max(len(pool.candidates) for pool in questions.pools),
        float(found.undecided.mean()), scored.tolist(),
        {metric: float(values(found, metric).mean()) for metric in REPORTED},
    )  # fmt: skip


def _aggregate_cell(scores: Scores, group: str) -> str:
    if group not in scores.aggregates:
        return "-"
    cell = f"{100 * scores.aggregates[group]:.1f}"
    if group not in scores.confidence:
        return cell
    low, high = (100 * bound for bound in scores.confidence[group])
    return f"{cell} ({low:.1f} to {high:.1f})"


def _task_cell(task: TaskScore | None) -> str:
    if task is None:
        return "-"
    ties = f" (ties {task.tie_rate:.0%})" if task.tie_rate >= TIE_RATE_SHOWN else ""
    return f"{100 * task.score:.1f}{ties}"

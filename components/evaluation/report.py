"""One model's scores on all evaluation sets of a data set, as the gate reads them and as a person does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from components.config import Evaluation
from components.embedder import Embedder, Vectors
from components.evaluation.aggregate import aggregates, overall_interval
from components.evaluation.scoring import hit_at_1
from components.evaluation.sets import EvaluationSet, Suite, read_suite
from components.evaluation.vectors import Progress, cached_vectors

SCORER = "1"
"""Rises with every change that can change a score; scores of different scorers do not compare."""
METRIC = "hit@1"
BATCHES_PER_CHUNK = 32
META_TASKS = ("classification", "vqa", "retrieval", "grounding")


@dataclass(frozen=True)
class Model:
    name: str
    fingerprint: str
    dimension: int
    parameters: int


@dataclass(frozen=True)
class TaskScore:
    """One set: `score` is the mean of `hits`, one a query; `tie_rate` the share of queries whose best candidates tie.

    `candidates` is the largest number that a query has.
    """

    meta_task: str
    distribution: str
    metric: str
    score: float
    queries: int
    candidates: int
    tie_rate: float
    hits: list[float]


@dataclass(frozen=True)
class Scores:
    """A score file: all numbers unrounded, and the identity of model, data, scorer and prompts that they belong to."""

    model: Model
    dataset_digest: str
    scorer: str
    prompts: str
    tasks: dict[str, TaskScore]
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
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**content | {
            "model": Model(**content["model"]),
            "tasks": {name: TaskScore(**task) for name, task in content["tasks"].items()},
            "confidence": {name: tuple(interval) for name, interval in content["confidence"].items()},
        })  # fmt: skip


def evaluate(
    embedder: Embedder,
    name: str,
    fingerprint: str,
    parameters: int,
    data: Path,
    config: Evaluation,
    cache: Path,
    progress: Progress,
) -> Scores:
    """Returns the scores of a model on the evaluation sets of `data`, under the name that the report gives it.

    Each different item is encoded once; vectors are kept in the folder `cache`. Raises as `read_suite` and
    `cached_vectors` do: there are no scores of an incomplete data set or of a broken vector.
    """
    suite = read_suite(data)
    chunk = config.batch_size * BATCHES_PER_CHUNK
    vectors, speed = cached_vectors(embedder, name, fingerprint, suite, chunk, cache, progress)
    tasks = {questions.name: _score(questions, vectors, name, suite) for questions in suite.sets}
    means = aggregates({task: tasks[task].score for task in tasks}, suite.manifest.tasks.eval)
    hits = {task: np.array(tasks[task].hits) for task in tasks}
    return Scores(
        Model(name, fingerprint, embedder.dimension, parameters),
        suite.manifest.digest,
        SCORER,
        suite.prompts,
        tasks,
        means,
        {"overall": overall_interval(hits, config.bootstrap_samples)},
        speed,
    )


def table(scores: Mapping[str, Scores]) -> Table:
    """Returns a table in percent: a column a model; overall with its interval, IND, OOD, meta-tasks, then every set.

    A set whose queries tie is marked with the share that does.
    """
    grid = Table("hit@1, %", title="Scores")
    for name in scores:
        grid.add_column(name, justify="right")
    models = list(scores.values())
    groups = ["overall", "IND", "OOD", *META_TASKS]
    for group in [group for group in groups if any(group in model.aggregates for model in models)]:
        cells = [_aggregate_cell(model, group) for model in models]
        grid.add_row(group, *cells, style="bold" if group == "overall" else None)
    grid.add_section()
    for task in sorted({task for model in models for task in model.tasks}):
        grid.add_row(task, *(_task_cell(model.tasks.get(task)) for model in models))
    grid.add_section()
    grid.add_row("items a second", *(f"{model.items_per_second:,.0f}" for model in models))
    grid.add_row("parameters", *(f"{model.model.parameters:,}" for model in models))
    return grid


def _score(questions: EvaluationSet, vectors: Vectors, model: str, suite: Suite) -> TaskScore:
    hits, tied = np.zeros((2, len(questions.queries)))
    for pool in questions.pools:
        found = hit_at_1(
            vectors, questions.queries[pool.rows], pool.candidates, pool.relevant,
            lambda position: f"{model}: {suite.place(position)}",
        )  # fmt: skip
        hits[pool.rows], tied[pool.rows] = found.expected, found.tied
    task = questions.task
    return TaskScore(
        task.meta_task, task.distribution, METRIC, float(hits.mean()), len(hits), task.candidates, float(tied.mean()),
        hits.tolist(),
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
    ties = f" (ties {task.tie_rate:.0%})" if task.tie_rate >= 0.005 else ""
    return f"{100 * task.score:.1f}{ties}"

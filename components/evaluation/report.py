"""One model's scores on the sets of a benchmark, as the gate reads them and as a person does."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from rich.table import Table

from components.artifact import write_text
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
ROUNDING = 1e-9
Share = Annotated[float, Field(ge=0, le=1 + ROUNDING, allow_inf_nan=False)]
"""From 0 to 1, or as far above it as the order of addition can bring a mean."""
EXACTLY = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class Model:
    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    name: str
    fingerprint: str
    dimension: PositiveInt
    parameters: NonNegativeInt | None


@dataclass(frozen=True)
class TaskScore:
    """One set: `score` is the mean of `values`, one a query, `interval` its 95 % interval over the queries.

    `tie_rate` is the share of queries whose value hangs on the order of tied candidates, `candidates` the largest
    number of different ones that a query has, `metrics` the means of other metrics.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    modality: str
    meta_task: str
    distribution: str | None
    metric: str
    score: Share
    interval: tuple[Share, Share]
    queries: PositiveInt
    candidates: PositiveInt
    tie_rate: Share
    values: list[Share]
    metrics: dict[str, Share]


@dataclass(frozen=True)
class Scores:
    """A score file: all numbers unrounded, and the identity of model, data, scorer and prompts that they belong to.

    `missing` and `extra` are sets of the benchmark without a score, and scores without a set; with either there is no
    overall.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    model: Model
    benchmark: str
    dataset_digest: str
    scorer: str
    prompts: str
    tasks: dict[str, TaskScore]
    missing: list[str]
    extra: list[str]
    aggregates: dict[str, Share]
    confidence: dict[str, tuple[Share, Share]]

    def write(self, path: Path) -> None:
        """Raises `UsedWrongly` where nothing can be written."""
        write_text(path, json.dumps(asdict(self), allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Raises `UsedWrongly` naming file, set and what is wrong if it is no score file of this scorer."""
        again = "Score the model again with `embedline evaluate`."
        try:
            text = path.read_text(encoding="utf-8")
            content: dict[str, Any] = json.loads(text)
            scorer = content["scorer"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsedWrongly(f"{path}: is no score file", "Name one that `embedline evaluate` has written.") from error
        if scorer != SCORER:
            raise UsedWrongly(f"{path}: was written by scorer {scorer}, this is scorer {SCORER}", again)
        try:
            scores = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            defects = [f"{'.'.join(map(str, defect['loc']))}: {defect['msg']}" for defect in error.errors()]
            raise UsedWrongly(f"{path}: is no score file of this version: {'; '.join(defects[:3])}", again) from error
        for name, task in scores.tasks.items():
            if len(task.values) != task.queries:
                raise UsedWrongly(f"{path}: {name}: {len(task.values)} values for {task.queries} queries", again)
            if not math.isclose(task.score, np.mean(task.values), abs_tol=ROUNDING):
                raise UsedWrongly(f"{path}: {name}: the score {task.score} is not the mean of its values", again)
        return scores


def evaluate(
    embedder: AnyEmbedder, model: Model, suite: Suite, config: Evaluation, cache: Path, progress: Progress
) -> Scores:
    """Returns the scores of a model on the sets of a suite, under the name that `model` gives it.

    Each different item is encoded once; vectors are kept in the folder `cache`. Raises as `cached_vectors` does: there
    are no scores of a broken vector.
    """
    chunk = config.batch_size * BATCHES_PER_CHUNK
    sides, _ = cached_vectors(embedder, model.name, model.fingerprint, suite, chunk, cache, progress)
    return score(model, suite, sides)


def score(model: Model, suite: Suite, sides: Mapping[str, tuple[Side, Side]]) -> Scores:
    """Returns the scores of a model whose vectors are there: `sides` by set."""
    tasks = {questions.name: _score(questions, *sides[questions.name]) for questions in suite.sets}
    means = aggregates({name: task.score for name, task in tasks.items()}, suite.benchmark.tasks)
    per_query = {name: np.array(task.values) for name, task in tasks.items()}
    intervals = {"overall": overall_interval(per_query)} if "overall" in means else {}
    return Scores(
        model, suite.benchmark.name, suite.digest, SCORER, suite.prompts, tasks, suite.missing, [], means, intervals
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

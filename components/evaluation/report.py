"""One model's scores on the sets of a suite, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.table import Table

from components.evaluation.aggregate import aggregates, overall_interval
from components.evaluation.config import Evaluation
from components.evaluation.metrics import REPORTED, Ranks, values
from components.evaluation.scoring import joined, ranks
from components.evaluation.sets import EvaluationSet, Suite
from components.evaluation.ties import examples
from components.evaluation.vectors import AnyEmbedder, Progress, Side, cached_vectors, similarity
from components.scores import SCORER, Model, Scores, TaskScore

BATCHES_PER_CHUNK = 8
TIE_RATE_SHOWN = 0.005


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
    tasks = {questions.name: _score(suite, questions, *sides[questions.name]) for questions in suite.sets}
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


def _score(suite: Suite, questions: EvaluationSet, queries: Side, candidates: Side) -> TaskScore:
    found = ranked(questions, queries, candidates)
    task = questions.task
    scored = values(found, task.metric)
    return TaskScore(
        task.modality, task.meta_task, task.distribution, task.metric, float(scored.mean()),
        overall_interval({"": scored}), len(scored), max(len(pool.candidates) for pool in questions.pools),
        float(found.undecided.mean()), scored.tolist(),
        {metric: float(values(found, metric).mean()) for metric in REPORTED},
        examples(suite, questions, found, queries, candidates),
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

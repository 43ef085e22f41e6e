"""The score file: one model's scores on the sets of a benchmark. Evaluation writes it, gates and pages read it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from components.errors import UsageError
from components.files import write_text

SCORER = "3"
"""Rises with every change that can change a score; scores of different scorers do not compare."""
ROUNDING = 1e-9
DEFECTS_NAMED = 3
Share = Annotated[float, Field(ge=0, le=1 + ROUNDING, allow_inf_nan=False)]
"""From 0 to 1, or as far above it as the order of addition can bring a mean."""
Identity = Annotated[str, Field(min_length=1)]
EXACTLY = ConfigDict(strict=True, extra="forbid", revalidate_instances="always")


@dataclass(frozen=True)
class Model:
    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    name: str
    fingerprint: Identity
    dimension: PositiveInt
    parameters: NonNegativeInt | None


@dataclass(frozen=True)
class Tie:
    """A relevant candidate and one of another relevance that a query cannot tell apart, and what may be why."""

    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    relevant: str
    other: str
    reason: str


@dataclass(frozen=True)
class TaskScore:
    """One set: `score` is the mean of `values`, one a query, `interval` its 95 % interval over the queries.

    `tie_rate` is the share of queries whose value hangs on the order of tied candidates, `candidates` the largest
    number of different ones that a query has, `metrics` the means of other metrics, `ties` examples of such ties.
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
    ties: list[Tie] = field(default_factory=list)


@dataclass(frozen=True)
class Scores:
    """A score file: all numbers unrounded, and the identity of model, data, scorer and prompts that they belong to.

    `missing` and `extra` are sets of the benchmark without a score, and scores without a set; with either there is no
    overall.
    """

    __pydantic_config__: ClassVar[ConfigDict] = EXACTLY

    model: Model
    benchmark: str
    dataset_digest: Identity
    scorer: Identity
    prompts: Identity
    tasks: dict[str, TaskScore]
    missing: list[str]
    extra: list[str]
    aggregates: dict[str, Share]
    confidence: dict[str, tuple[Share, Share]]

    def write(self, path: Path) -> None:
        """Raises `UsageError` where nothing can be written."""
        write_text(path, json.dumps(asdict(self), allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Raises `UsageError` naming file, set and what is wrong if it is no score file of this scorer."""
        again = "Score the model again with `embedline evaluate`."
        try:
            text = path.read_text(encoding="utf-8")
            content: dict[str, Any] = json.loads(text)
            scorer = content["scorer"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UsageError(f"{path}: is no score file", "Name one that `embedline evaluate` has written.") from error
        if scorer != SCORER:
            raise UsageError(f"{path}: was written by scorer {scorer}, this is scorer {SCORER}", again)
        try:
            scores = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            problem = f"{path}: is no score file of this version: {'; '.join(_explained(error))}"
            raise UsageError(problem, again) from error
        if found := _contradictions(scores):
            raise UsageError(f"{path}: {'; '.join(found)}", again)
        return scores


def defects(scores: Scores) -> list[str]:
    """Returns what makes scores no evidence, wherever they come from: what `Scores.read` refuses, of any scorer."""
    try:
        return _contradictions(TypeAdapter(Scores).validate_python(scores))
    except ValidationError as error:
        return _explained(error)


def _explained(error: ValidationError) -> list[str]:
    """Returns the first values that are not of their type, each with its place."""
    return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:DEFECTS_NAMED]]


def _contradictions(scores: Scores) -> list[str]:
    """Returns the sets whose values are not those that the rest speaks of."""
    found = []
    for name, task in scores.tasks.items():
        if len(task.values) != task.queries:
            found.append(f"{name}: {len(task.values)} values for {task.queries} queries")
        elif not math.isclose(task.score, np.mean(task.values), abs_tol=ROUNDING):
            found.append(f"{name}: the score {task.score} is not the mean of its values")
    return found

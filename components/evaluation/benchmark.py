"""Benchmarks as data: each is a table of its sets, `tables/NAME.yaml`, checked as it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import PositiveInt, ValidationError, field_validator

from components.corpus.manifest import Record
from components.errors import DataInvalid, UsageError
from components.evaluation.metrics import parse

TABLES = Path(__file__).parent / "tables"


class Source(Record):
    """Where a set is published: a data set repository on the Hugging Face hub and what to take of it."""

    repository: str
    configuration: str | None
    split: str
    revision: str


class Task(Record):
    """One set: what it asks, how many queries it has, and how its files are read, worded and scored.

    `candidates` is the largest number that a query has, None where nothing is published. A `local` pool is a query's
    own, a `global` one that of all queries. `layout` names the loader, `prompt` the parser of `prompts.render`.
    """

    modality: Literal["image", "video", "visdoc"]
    meta_task: str
    distribution: Literal["IND", "OOD"] | None
    queries: PositiveInt
    candidates: PositiveInt | None
    metric: str
    pool: Literal["local", "global"]
    layout: str
    prompt: str
    source: Source | None

    @field_validator("metric")
    @classmethod
    def _exists(cls, metric: str) -> str:
        try:
            parse(metric)
        except UsageError as error:
            raise ValueError(error.problem) from error
        return metric


class Benchmark(Record):
    """The sets of a benchmark by name, in the order of its table."""

    name: str
    tasks: dict[str, Task]


def known_benchmarks() -> list[str]:
    """Returns the names of the benchmarks that come with this package."""
    return sorted(file.stem for file in TABLES.glob("*.yaml"))


def read_benchmark(name: str) -> Benchmark:
    """Returns a benchmark that comes with this package.

    Raises `UsageError` that names the known ones if it is none of them, `DataInvalid` if its table is broken.
    """
    if name not in known_benchmarks():
        raise UsageError(f"{name}: there is no such benchmark", f"Known are {', '.join(known_benchmarks())}.")
    file = TABLES / f"{name}.yaml"
    try:
        table = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Benchmark.model_validate({"name": name, "tasks": table["tasks"]})
    except (yaml.YAMLError, ValidationError, KeyError, TypeError) as error:
        raise DataInvalid(f"{file} is no table of tasks: {error}", "Correct the line that is named.") from error

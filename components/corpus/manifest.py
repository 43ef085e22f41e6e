"""What a data set is made of: its tasks, its inputs with their hashes, its licence, and a digest of its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from components.errors import DataInvalid, UsageError
from components.files import file_sha256, folder_sha256, write_text

MANIFEST = "manifest.json"
MetaTask = Literal["classification", "vqa", "retrieval", "grounding"]
Distribution = Literal["IND", "OOD"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Input(Record):
    """One thing that the data set was made from: its version, and the SHA-256 of its bytes."""

    version: str
    sha256: str


class EvaluationTask(Record):
    """A set of queries; `candidates` is the largest number of candidates that one of them has."""

    rows: PositiveInt
    candidates: PositiveInt
    meta_task: MetaTask
    distribution: Distribution


class Tasks(Record):
    """The number of rows of each training task, and the sets of queries of each other split.

    `multilingual` asks the same in several languages, a set each, by the language's CLDR code.
    """

    train: dict[str, int] = {}
    dev: dict[str, EvaluationTask] = {}
    eval: dict[str, EvaluationTask] = {}
    multilingual: dict[str, EvaluationTask] = {}

    @property
    def rows(self) -> int:
        queries = (*self.dev.values(), *self.eval.values(), *self.multilingual.values())
        return sum(self.train.values()) + sum(task.rows for task in queries)


class Manifest(Record):
    """The content of `manifest.json`; `corpus` is the configuration section, `digest` covers every other file."""

    name: str
    source: str
    licence: list[str]
    inputs: dict[str, Input]
    corpus: dict[str, Any]
    seed: int
    tasks: Tasks
    images: int
    quarantined: int
    digest: str

    @classmethod
    def read(cls, data: Path) -> Manifest:
        """Raises `UsageError` if there is no manifest in `data`, `DataInvalid` if it is not one."""
        try:
            return cls.model_validate_json((data / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise UsageError(f"{data / MANIFEST} is missing", "Build the data set with `embedline ingest`.") from error
        except ValidationError as error:
            raise DataInvalid(
                f"{data / MANIFEST} is no manifest: {error}", "Build the data set again with `embedline ingest`."
            ) from error

    def write(self, data: Path) -> None:
        write_text(data / MANIFEST, self.model_dump_json(indent=2) + "\n")


def data_digest(data: Path, sha256: Callable[[Path], str] = file_sha256) -> str:
    """Returns the digest that identifies a data set: `folder_sha256` of everything but its manifest."""
    return folder_sha256(data, frozenset({MANIFEST}), sha256)

"""VLM2Vec's score files: ours written in its layout, and those of others read to stand beside ours.

A report is one file, `{"metadata": {...}, "metrics": {MODALITY: {SET: {METRIC: share}}}}`. The same scores lie in a
folder as `MODALITY/SET_score.json`, or in version 1 as `SET_score.json`, whose `acc` is hit@1.
Source: VLM2Vec, `experiments/report_score_v2.py` (main) and `eval.py` (v1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import DataInvalid, UsageError
from components.evaluation.benchmark import Benchmark
from components.files import atomic_directory, write_text
from components.scores import Scores

MODALITIES = ("image", "video", "visdoc")
SCORE_FILE = "_score.json"
CORRECTED = "-fixed"
"""What leaderboard files append to a set whose labels were corrected; the benchmark has no other."""
BESIDE_THE_BENCHMARK = {
    "MomentSeeker_1k8",
    "ViDoRe_biomedical_lectures_v2",
    "ViDoRe_economics_reports_v2",
    "ViDoRe_esg_reports_v2",
}
"""What reports may hold beside the 78 sets of version 2, and no published mean over 78 counts: the queries that
MomentSeeker had before (the reports v2.0.1 have both), and those in English alone of sets that count in all languages.
Sources: VLM2Vec (main), `experiments/public/all_scores/v2.0.1` and `experiments/public/eval/visdoc.yaml`."""


@dataclass(frozen=True)
class Reported:
    """What someone else reports of a model: means, without the values of the queries behind them.

    It can be shown beside `Scores`, but takes part in no test and no promotion. `metrics` are those of every set,
    `scores` the main metric of the benchmark's sets. `missing`, `extra` and `resized` (with another number of queries)
    name the sets that differ from the benchmark's; unless all three are empty, `overall` is None. A set
    `BESIDE_THE_BENCHMARK` is not extra.
    """

    model: str
    benchmark: str
    metrics: dict[str, dict[str, float]]
    scores: dict[str, float]
    missing: list[str]
    extra: list[str]
    resized: list[str]

    @property
    def overall(self) -> float | None:
        """The mean over all sets of the benchmark, 0 to 1."""
        complete = self.scores and not (self.missing or self.extra or self.resized)
        return sum(self.scores.values()) / len(self.scores) if complete else None


def write_report(scores: Scores, path: Path) -> None:
    """Writes the scores as one report; its metadata also says which data, scorer and prompts they belong to.

    Raises `UsageError` where nothing can be written.
    """
    _write(path, {"metadata": _metadata(scores), "metrics": _by_modality(scores)})


def write_score_files(scores: Scores, folder: Path) -> None:
    """Writes one file a set, `folder/MODALITY/SET_score.json`.

    Raises `UsageError` if `folder` exists: nothing in the files says which model they belong to.
    """
    if folder.exists():
        raise UsageError(f"{folder}: exists already", "Name a new folder for the score files of this model.")
    with atomic_directory(folder) as partial:
        for modality, sets in _by_modality(scores).items():
            (partial / modality).mkdir()
            for name, metrics in sets.items():
                _write(partial / modality / f"{name}{SCORE_FILE}", metrics)


def read_report(path: Path, benchmark: Benchmark) -> Reported:
    """Returns what a report says, or a folder of score files, whose name is then the model's.

    Raises `UsageError` if there is nothing at `path`, `DataInvalid` if a file is not in VLM2Vec's layout, a set is
    there twice, or one of the benchmark's sets lacks its main metric.
    """
    model, found = _folder(path) if path.is_dir() else _report(path)
    sets: dict[str, _Set] = {}
    for name, content in found:
        plain = name.removesuffix(CORRECTED)
        name = plain if plain in benchmark.tasks else name
        if name in sets:
            raise DataInvalid(f"{path}: {name} is there twice", "Remove the one that does not belong there.")
        sets[name] = content
    metrics = {name: content.metrics for name, content in sets.items()}
    scores, resized = {}, []
    for name, task in benchmark.tasks.items():
        if name in sets:
            if task.metric not in metrics[name]:
                raise DataInvalid(f"{path}: {name} has no {task.metric}", f"{benchmark.name} is scored by it.")
            scores[name] = metrics[name][task.metric]
            if sets[name].num_pred != task.queries:
                resized.append(name)
    missing = sorted(benchmark.tasks.keys() - sets)
    extra = sorted(sets.keys() - benchmark.tasks - BESIDE_THE_BENCHMARK)
    return Reported(model, benchmark.name, metrics, scores, missing, extra, resized)


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Set(BaseModel):
    """The scores of one set; every field that has no name here is a metric."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Share] = Field(init=False)
    num_pred: int
    num_data: int | None = None
    num_correct: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        return {"hit@1" if name == "acc" else name: share for name, share in self.__pydantic_extra__.items()}


class _Metadata(BaseModel):
    model_name: str


class _Report(BaseModel):
    """A set that was not scored has a string, such as "FILE_N/A", in the place of its scores."""

    metadata: _Metadata
    metrics: dict[str, dict[str, _Set | str]]


Content = TypeVar("Content", bound=BaseModel)


def _report(path: Path) -> tuple[str, Iterator[tuple[str, _Set]]]:
    """Returns the model's name and each set that has scores."""
    report = _read(path, _Report)
    sets = ((name, scores) for named in report.metrics.values() for name, scores in named.items())
    return report.metadata.model_name, ((name, scores) for name, scores in sets if isinstance(scores, _Set))


def _folder(path: Path) -> tuple[str, Iterator[tuple[str, _Set]]]:
    files = [file for part in (".", *MODALITIES) for file in sorted((path / part).glob(f"*{SCORE_FILE}"))]
    if not files:
        raise UsageError(f"{path}: holds no score files", f"It should hold MODALITY/SET{SCORE_FILE}.")
    return path.resolve().name, ((file.name.removesuffix(SCORE_FILE), _read(file, _Set)) for file in files)


def _read(path: Path, kind: type[Content]) -> Content:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file", "Name a report of VLM2Vec, or its folder.") from error
    except ValidationError as error:
        raise DataInvalid(f"{path}: is no score file of VLM2Vec: {error}", "Metrics are shares from 0 to 1.") from error


def _metadata(scores: Scores) -> dict[str, Any]:
    return {
        "model_name": scores.model.name,
        "model_size": scores.model.parameters and scores.model.parameters / 1e9,
        "embedding_dimension": scores.model.dimension,
        "data_source": "Self-Reported",
        "model_fingerprint": scores.model.fingerprint,
        "benchmark": scores.benchmark,
        "dataset_digest": scores.dataset_digest,
        "scorer": scores.scorer,
        "prompts": scores.prompts,
        "missing": scores.missing,
        "extra": scores.extra,
    }


def _by_modality(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    return {
        modality: {
            name: task.metrics | {"num_pred": task.queries, "num_data": task.queries}
            for name, task in scores.tasks.items()
            if task.modality == modality
        }
        for modality in MODALITIES
    }


def _write(path: Path, content: object) -> None:
    write_text(path, json.dumps(content, allow_nan=False, indent=4) + "\n")

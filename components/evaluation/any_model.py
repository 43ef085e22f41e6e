"""Scoring any model on any suite, outside a round."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from components.backends.directory import Unopened, opened
from components.embedder import Embedder
from components.errors import UsageError
from components.evaluation import (
    BATCHES_PER_CHUNK,
    AnyEmbedder,
    Done,
    Progress,
    Suite,
    cached_vectors,
    dimension,
    known_benchmarks,
    parameters,
    read_suite,
    score,
)
from components.evaluation.config import Evaluation
from components.evaluation.probes import probe, probe_names
from components.evaluation.prompts import require_backbone
from components.evaluation.reports import published, report_page, worst, write_page
from components.evaluation.shortened import shortened
from components.evaluation.similarity import regression
from components.evaluation.suites import chosen, mirrored_suite
from components.evaluation.xtd import XTD, xtd_suite
from components.scores import Model, Scores
from components.workspace import DATA, SCORES, STATE, VECTORS

EVALUATIONS = STATE / "evaluations"
MISSES_SHOWN = 24
MTEB, SIMILARITY = "mteb:", "sts:"

OpenModel = Callable[[str, int, Path], tuple[AnyEmbedder | Unopened, str]]
"""Returns the embedder, opened or not, and its fingerprint, of a model's name, a batch size and the folder that image
paths of precomputed vectors are relative to."""


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation leaves: the scores, a probe's own numbers if all its sets were scored, how many items a
    second the model encoded, and where the scores and their page lie."""

    scores: Scores
    measured: dict[str, float]
    items_per_second: float
    file: Path
    page: Path


@dataclass(frozen=True)
class Questions:
    """What to ask of a model: the name of a suite, the folder of a published one, which of its sets, in whose words,
    and to how many numbers its vectors are cut."""

    suite: str
    mirror: Path | None = None
    tasks: Sequence[str] = ()
    backbone: str | None = None
    dimension: int | None = None


def evaluate_model(
    model: str, questions: Questions, config: Evaluation, open_model: OpenModel, progress: Progress
) -> Evaluated:
    """Scores a model, keeps the scores under `.embedline/evaluations/SUITE/` and writes the page beside them.

    Another model of the same name, other sets, another backbone, other data or shorter vectors have their own file.
    """
    suite = find_suite(questions)
    embedder, fingerprint = open_model(model, config.batch_size, suite.root)
    chunk = config.batch_size * BATCHES_PER_CHUNK
    sides, speed = cached_vectors(embedder, embedder.name, fingerprint, suite, chunk, VECTORS, progress)
    if questions.dimension is not None:
        sides = shortened(sides, questions.dimension)
    described = Model(embedder.name, fingerprint, dimension(sides), _parameters(model))
    scores = score(described, suite, sides)
    by = "multilingual" if questions.suite == XTD else questions.suite
    measured = probe(by).measure(suite, scores, sides) if by in probe_names() and not suite.missing else {}
    file = EVALUATIONS / questions.suite / f"{_file_name(scores, questions)}.json"
    scores.write(file)
    beside = published() if questions.suite == "mmeb-v1" else {}
    page = report_page({embedder.name: scores}, beside, worst(suite, sides, MISSES_SHOWN))
    write_page(file.with_suffix(".html"), page)
    return Evaluated(scores, measured, speed, file, file.with_suffix(".html"))


def evaluate_elsewhere(
    model: str, questions: Questions, config: Evaluation, open_model: OpenModel, progress: Progress
) -> dict[str, float]:
    """Returns the numbers of a suite that is no set of questions of ours: `mteb:TASK`, or `sts:FILE` of rated pairs."""
    suite = questions.suite
    _require_fitting(questions)
    for option, value in (("--task", questions.tasks), ("--dimension", questions.dimension)):
        if value:
            raise UsageError(f"{suite} is scored as a whole, with whole vectors", f"Leave {option} out.")
    found, fingerprint = open_model(model, config.batch_size, DATA)
    embedder = opened(found)
    if not isinstance(embedder, Embedder):
        raise UsageError(f"{model} gives an item several vectors", f"{suite} takes models that give one.")
    if suite.startswith(SIMILARITY):
        measured = regression(embedder, embedder.name, Path(suite.removeprefix(SIMILARITY)), config.batch_size)
        low, high = measured.interval
        numbers = {"spearman": measured.spearman, "from": low, "to": high}
        return numbers | {"pearson": measured.pearson, "pairs": measured.pairs}
    from components.evaluation.mteb_model import evaluate_with_mteb

    return evaluate_with_mteb(
        embedder, embedder.name, fingerprint, [suite.removeprefix(MTEB)], EVALUATIONS / "mteb",
        lambda task, done, total: progress(Done(task, done, total, done, total)),
    )  # fmt: skip


def find_suite(questions: Questions) -> Suite:
    """Returns the suite of that name, or the chosen sets of it. Raises `UsageError` that names the known ones."""
    name, tasks = questions.suite, questions.tasks
    _require_fitting(questions)
    if name in (*known_benchmarks(), XTD):
        if questions.mirror is None:
            raise UsageError(f"{name} needs its files", "Name the folder that holds them with --mirror.")
        if name == XTD:
            return chosen(xtd_suite(questions.mirror), tasks)
        return mirrored_suite(name, questions.mirror, tasks, questions.backbone, VECTORS)
    suite = read_suite(DATA, cache=VECTORS)
    if name in probe_names():
        return chosen(probe(name).build(suite, EVALUATIONS / name / "images"), tasks)
    if name not in (suite.benchmark.name, "data"):
        known = ", ".join((suite.benchmark.name, *known_benchmarks(), XTD, *probe_names()))
        raise UsageError(f"{name}: there is no such suite", f"Name one of {known}, {MTEB}TASK or {SIMILARITY}FILE.")
    return chosen(suite, tasks)


def read_scores(name: str) -> Scores:
    """Returns a score file: a path, or the name of a model that a round has scored. Raises `UsageError` if neither."""
    for file in (Path(name), SCORES / f"{name}.json"):
        if file.is_file():
            return Scores.read(file)
    known = ", ".join(file.stem for file in sorted(SCORES.glob("*.json"))) or "none yet"
    raise UsageError(f"{name}: no score file", f"Name a file below {EVALUATIONS}, or one of {SCORES}: {known}.")


def _require_fitting(questions: Questions) -> None:
    """Raises `UsageError` for what a suite does not take, and for an unknown backbone."""
    if questions.backbone is not None:
        require_backbone(questions.backbone)
    worded = known_benchmarks()
    for option, value, takers in (
        ("--backbone", questions.backbone, worded),
        ("--mirror", questions.mirror, (*worded, XTD)),
    ):
        if value is not None and questions.suite not in takers:
            raise UsageError(f"{questions.suite} takes no {option}", f"{option} is for {', '.join(takers)}.")


def _file_name(scores: Scores, questions: Questions) -> str:
    """Returns the model's name, and eight digits of what else tells its evaluations on a suite apart."""
    model = scores.model
    inputs = model.fingerprint, model.dimension, sorted(set(questions.tasks)), questions.backbone, scores.dataset_digest
    digest = hashlib.sha256(repr(inputs).encode()).hexdigest()
    return f"{model.name.replace('/', '-')}-{digest[:8]}"


def _parameters(model: str) -> int | None:
    directory = Path(model)
    return parameters(directory) if any(directory.rglob("*.safetensors")) else None

"""Scoring any model on any suite, outside a round: what `embedline evaluate` and `embedline compare` do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from components.backends.open import open_embedder
from components.embedder import Embedder
from components.errors import UsedWrongly
from components.evaluation import (
    BATCHES_PER_CHUNK,
    AnyEmbedder,
    Done,
    Model,
    Scores,
    Suite,
    cached_vectors,
    known_benchmarks,
    parameters,
    read_suite,
    score,
)
from components.evaluation.config import Evaluation
from components.evaluation.reports import published, report_page, worst, write_page
from components.evaluation.siblings import SIBLINGS
from components.evaluation.siblings.similarity import regression
from components.evaluation.suites import mirrored_suite
from components.workspace import DATA, SCORES, VECTORS

EVALUATIONS = Path(".embedline") / "evaluations"
MISSES_SHOWN = 24
COMPARISON_SAMPLES = 10_000
MTEB, SIMILARITY = "mteb:", "sts:"


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation leaves: the scores, a sibling's own numbers, and where the scores and their page lie."""

    scores: Scores
    measured: dict[str, float]
    file: Path
    page: Path


@dataclass(frozen=True)
class Questions:
    """What to ask of a model: the name of a suite, the folder of a published one, which of its sets, in whose words."""

    suite: str
    mirror: Path | None = None
    tasks: Sequence[str] = ()
    backbone: str | None = None


def evaluate_model(model: str, questions: Questions, config: Evaluation, screen: Console) -> Evaluated:
    """Scores a model, keeps the scores under `.embedline/evaluations/SUITE/` and writes the page beside them."""
    suite = find_suite(questions)
    embedder, fingerprint = find_embedder(model, config.batch_size, suite.root)
    described = Model(embedder.name, fingerprint, embedder.dimension, _parameters(model))
    chunk = config.batch_size * BATCHES_PER_CHUNK
    with _bars(screen) as progress:
        sides, speed = cached_vectors(embedder, embedder.name, fingerprint, suite, chunk, VECTORS, progress)
    scores = score(described, suite, sides, speed)
    sibling = SIBLINGS.get(questions.suite)
    measured = sibling.measure(suite, scores, sides) if sibling else {}
    file = EVALUATIONS / questions.suite / f"{embedder.name.replace('/', '-')}.json"
    scores.write(file)
    beside = published() if questions.suite == "mmeb-v1" else {}
    page = report_page({embedder.name: scores}, beside, worst(suite, sides, MISSES_SHOWN))
    write_page(file.with_suffix(".html"), page)
    return Evaluated(scores, measured, file, file.with_suffix(".html"))


def evaluate_elsewhere(model: str, suite: str, config: Evaluation, screen: Console) -> dict[str, float]:
    """Returns the numbers of a suite that is no set of questions of ours: `mteb:TASK`, or `sts:FILE` of rated pairs."""
    embedder, fingerprint = find_embedder(model, config.batch_size, DATA)
    if not isinstance(embedder, Embedder):
        raise UsedWrongly(f"{model} gives an item several vectors", f"{suite} takes models that give one.")
    if suite.startswith(SIMILARITY):
        found = regression(embedder, embedder.name, Path(suite.removeprefix(SIMILARITY)), config.batch_size)
        low, high = found.interval
        return {"spearman": found.spearman, "from": low, "to": high, "pearson": found.pearson, "pairs": found.pairs}
    from components.evaluation.mteb_model import evaluate_with_mteb

    with _bars(screen) as progress:
        return evaluate_with_mteb(
            embedder, embedder.name, fingerprint, [suite.removeprefix(MTEB)], EVALUATIONS / "mteb",
            lambda task, done, total: progress(Done(task, done, total, done, total)),
        )  # fmt: skip


def find_suite(questions: Questions) -> Suite:
    """Returns the suite of that name. Raises `UsedWrongly` that names the known ones."""
    name = questions.suite
    if name in known_benchmarks():
        if questions.mirror is None:
            raise UsedWrongly(f"{name} needs its files", "Name the folder that holds them with --mirror.")
        return mirrored_suite(name, questions.mirror, questions.tasks, questions.backbone)
    suite = read_suite(DATA)
    if name in SIBLINGS:
        return SIBLINGS[name].build(suite, EVALUATIONS / name / "images")
    if name not in (suite.benchmark.name, "data"):
        known = ", ".join((suite.benchmark.name, *known_benchmarks(), *SIBLINGS))
        raise UsedWrongly(f"{name}: there is no such suite", f"Name one of {known}, {MTEB}TASK or {SIMILARITY}FILE.")
    return suite


def find_embedder(model: str, batch_size: int, root: Path) -> tuple[AnyEmbedder, str]:
    """Returns the embedder and its fingerprint: `triton://HOST:PORT/MODEL/VERSION`, or what `open_embedder` takes.

    Image paths of precomputed vectors are relative to `root`.
    """
    if model.startswith("triton://"):
        from serving.client import open_triton

        return open_triton(model)
    return open_embedder(model, batch_size, root, remember_images=True)


def read_scores(name: str) -> Scores:
    """Returns a score file: a path, or the name of a model that a round has scored. Raises `UsedWrongly` if neither."""
    for file in (Path(name), SCORES / f"{name}.json"):
        if file.is_file():
            return Scores.read(file)
    known = ", ".join(file.stem for file in sorted(SCORES.glob("*.json"))) or "none yet"
    raise UsedWrongly(f"{name}: no score file", f"Name a file below {EVALUATIONS}, or one of {SCORES}: {known}.")


def _parameters(model: str) -> int | None:
    directory = Path(model)
    return parameters(directory) if any(directory.rglob("*.safetensors")) else None


@contextmanager
def _bars(screen: Console) -> Iterator[Callable[[Done], None]]:
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as bars:
        everything, one = bars.add_task("all items"), bars.add_task("")

        def show(done: Done) -> None:
            bars.update(everything, completed=done.all_items, total=done.of_all)
            bars.update(one, description=done.task, completed=done.items, total=done.of)

        yield show

"""How fast and in how much memory a model is scored: all sets beside mteb's evaluator, scoring alone beside plain
matrix products. Sets and model are what `make run` has made; the vectors of scoring alone are random.

    python benchmarks/evaluation.py            every set, the median of three runs
    python benchmarks/evaluation.py --quick    every fifth set, run once, and no file of 3 GB
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from components.quiet import configure

configure()

# isort: split
import datasets
import mteb
import numpy as np
import torch
import typer
from datasets import Dataset, Image
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.mocks.mock_tasks.retrieval import MockAny2AnyRetrievalT2ITask

from components import config as configuration
from components.corpus import Item
from components.embedder import Embedder, OnnxEmbedder, Vectors, fingerprint
from components.evaluation import Cosine, EvaluationSet, Suite, evaluate, ranks, read_suite
from components.evaluation.metrics import values
from components.evaluation.mteb_model import MtebModel
from components.evaluation.scoring import Positions, joined, normalised, taken
from components.scores import Model, Scores
from components.workspace import DATA, ONNX
from table import Row, show

ROOT = Path(__file__).resolve().parent.parent
RUNS = 3
QUERIES, DIMENSION = 1_000, 768
LIKENESS = 0.12
"""How near a random query is to its answer: so near that some find it first, and others far down."""
BLOCK = 10_000
SAME_METRICS = {
    "hit@1": "hit_rate_at_1",
    "recall@10": "recall_at_10",
    "precision@5": "precision_at_5",
    "mrr@10": "mrr_at_10",
    "ndcg_linear@10": "ndcg_at_10",
}
ROUNDING = 1e-5
"""mteb rounds to five digits."""
MIB = 2**20
Ours = TypeVar("Ours")
Theirs = TypeVar("Theirs")


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sets, one run, smaller files.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    workspace: Annotated[Path, typer.Option(help="Where `embedline run` was called.")] = ROOT,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = end_to_end(workspace, folder, step=5 if quick else 1, runs=1 if quick else RUNS)
        rows.append(own_candidates(folder, 10_000))
        if not quick:
            rows.append(own_candidates(folder, 1_000_000))
        rows += shared_candidates(folder)
    show("Evaluation", rows, machine)


def end_to_end(workspace: Path, folder: Path, step: int, runs: int) -> list[Row]:
    """Returns the rows of every `step`-th set, encoded and scored, by ours and by mteb with the same embedder."""
    if not (workspace / ONNX / "int8").is_dir():
        raise SystemExit(f"{workspace} has no exported model yet: `make run` makes one")
    datasets.disable_progress_bars()
    config = configuration.read(workspace / configuration.PARAMETERS).evaluation

    def opened() -> Embedder:
        return OnnxEmbedder(workspace / ONNX / "int8", config.batch_size, remember_images=True)

    watched, watched_by_mteb = Watched(opened()), Watched(opened())
    model = Model("int8", fingerprint(workspace / ONNX / "int8"), watched.dimension, None)
    complete = read_suite(workspace / DATA)
    suite = replace(complete, sets=complete.sets[::step])
    tasks = [SetOfOurs(suite, questions) for questions in suite.sets]

    def ours() -> Scores:
        watched.embedder = opened()  # one that remembers nothing
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            return evaluate(watched, model, suite, config, Path(cache), lambda done: None)

    def theirs(some: Sequence[AbsTaskRetrieval] = tasks) -> dict[str, dict[str, float]]:
        watched_by_mteb.embedder = opened()
        asked = MtebModel(watched_by_mteb, model.name, model.fingerprint, lambda *done: None)
        encode_kwargs: Any = {"batch_size": config.batch_size, "show_progress_bar": False}
        results = mteb.evaluate(
            asked, some, cache=None, co2_tracker=False, show_progress_bar=False, encode_kwargs=encode_kwargs
        )
        return {result.task_name: dict(result.scores["test"][0]) for result in results.task_results}

    theirs(tasks[:1])  # what it imports as it goes, and the embedder's first batch, count for neither
    watched_by_mteb.items, watched_by_mteb.seconds = 0, 0.0
    scores, seconds, scores_of_mteb, seconds_of_mteb = in_turn(runs, ours, theirs)
    require_same(scores, scores_of_mteb)
    times = seconds_of_mteb / seconds
    return [
        compared(f"{len(tasks)} sets end to end (mteb)", seconds, "s", seconds_of_mteb),
        compared("  of it in the embedder", watched.seconds / runs, "s", watched_by_mteb.seconds / runs),
        compared("  items encoded", watched.items / runs, "", watched_by_mteb.items / runs),
        Row("  times as fast as mteb", times, "x", goal=3, met=times >= 3),
    ]


def own_candidates(folder: Path, different: int) -> Row:
    """Returns the row of queries with 1,000 candidates of their own each, out of so many different ones."""
    generator = np.random.default_rng(0)
    candidates = random_vectors(folder / f"{different}.npy", different, generator)
    own = np.arange(different).reshape(QUERIES, -1)
    if different < QUERIES * 1_000:
        own = np.stack([np.sort(generator.choice(different, 1_000, replace=False)) for _ in range(QUERIES)])
    answers = generator.integers(0, 1_000, QUERIES)
    queries = near(candidates[own[np.arange(QUERIES), answers]], generator)

    def ours() -> float:
        cosine = Cosine(queries, candidates)
        rows = np.arange(QUERIES)[:, None]
        pools = [(row, ranks(cosine, row, own[row[0]], np.array([[0, answers[row[0]]]]))) for row in rows]
        return float(values(joined(pools, QUERIES), "hit@1").mean())

    def loop() -> float:
        hits = [(taken(candidates, own[row]) @ queries[row]).argmax() == answer for row, answer in enumerate(answers)]
        return float(np.mean(hits))

    hits, seconds, hits_of_loop, seconds_of_loop = in_turn(RUNS, ours, loop)
    require_equal("own candidates: hit@1", hits, hits_of_loop, 1 / QUERIES)
    return compared(
        f"1,000 queries x 1,000 own of {different:,} candidates (NumPy loop)", seconds, "s", seconds_of_loop, goal=1
    )


def shared_candidates(folder: Path) -> list[Row]:
    """Returns the rows of queries that share a pool: seconds for the large one, and how memory grows from a tenth."""
    small, large = 10_000, 100_000
    generator = np.random.default_rng(0)
    candidates = random_vectors(folder / "shared.npy", large, generator)
    peaks, peaks_of_product = {}, {}
    for count in (small, large):
        answers = generator.integers(0, count, QUERIES)
        queries = near(candidates[answers], generator)
        pool = Pool(queries, candidates[:count], answers)
        peaks[count], peaks_of_product[count] = peak(pool.ours), peak(pool.product)
    hits, seconds, hits_of_torch, seconds_of_torch = in_turn(RUNS, pool.ours, pool.torch_top)
    require_equal("shared candidates: hit@1", hits, hits_of_torch, 1 / QUERIES)
    growth, growth_of_product = (of[large] / of[small] for of in (peaks, peaks_of_product))
    return [
        compared(f"1,000 queries x {large:,} shared candidates (torch)", seconds, "s", seconds_of_torch),
        compared("  peak memory (NumPy product)", peaks[large], "MiB", peaks_of_product[large]),
        compared(f"  with {small:,} candidates", peaks[small], "MiB", peaks_of_product[small]),
        compared("  growth", growth, "x", growth_of_product, goal=1.1),
    ]


@dataclass(frozen=True)
class Pool:
    """Queries `(n, dimension)` that share candidates `(m, dimension)`, of which each has one answer `(n,)`.

    All three ways to score them return hit@1.
    """

    queries: Vectors
    candidates: Vectors
    answers: Positions

    def ours(self) -> float:
        rows = np.arange(len(self.queries), dtype=np.int32)
        positions = np.arange(len(self.candidates), dtype=np.int32)
        found = ranks(Cosine(self.queries, self.candidates), rows, positions, np.stack([rows, self.answers], axis=1))
        return float(values(found, "hit@1").mean())

    def product(self) -> float:
        return float(((self.queries @ self.candidates.T).argmax(axis=1) == self.answers).mean())

    def torch_top(self) -> float:
        scores = torch.from_numpy(self.queries) @ torch.from_numpy(self.candidates).T
        return float((scores.topk(10).indices[:, 0].numpy() == self.answers).mean())


class SetOfOurs(AbsTaskRetrieval):
    """A set as a retrieval task of mteb, in memory; images are read when they are encoded, as ours are."""

    metadata = MockAny2AnyRetrievalT2ITask.metadata

    def __init__(self, suite: Suite, questions: EvaluationSet) -> None:
        relevant: dict[str, dict[str, int]] = {}
        own: dict[str, list[str]] = {}
        for pool in questions.pools:
            candidates = [str(position) for position in pool.candidates]
            own |= {str(row): candidates for row in pool.rows}
            for (row, place), grade in zip(pool.relevant, pool.grades, strict=True):
                relevant.setdefault(str(pool.rows[row]), {})[candidates[place]] = int(grade)
        pooled = np.unique(np.concatenate([pool.candidates for pool in questions.pools]))
        queries, documents = ([suite.items[position] for position in side] for side in (questions.queries, pooled))
        prompts = {"query": queries[0].instruction, "document": documents[0].instruction}
        self.metadata = self.metadata.model_copy(
            update={
                "name": questions.name,
                "category": f"{kinds(queries[0])}2{kinds(documents[0])}",
                "prompt": {side: prompt for side, prompt in prompts.items() if prompt},
            }
        )
        super().__init__()
        split: Any = {
            "queries": rows_of(range(len(queries)), queries),
            "corpus": rows_of(pooled, documents),
            "relevant_docs": relevant,
            "top_ranked": own if len(questions.pools) > 1 else None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def kinds(item: Item) -> str:
    """Returns the letters by which mteb tells what an item is made of."""
    return ("i" if item.image else "") + ("t" if item.text else "")


def rows_of(names: Iterable[int], items: Sequence[Item]) -> Dataset:
    """Returns a side of a set. Raises `SystemExit` if its items are not all alike: mteb has one prompt a side."""
    if len({(kinds(item), item.instruction) for item in items}) > 1:
        raise SystemExit("the items of a set differ in what they are made of, or in their instruction")
    columns = {"id": [str(name) for name in names]}
    if items[0].text:
        columns["text"] = [str(item.text) for item in items]
    if items[0].image:
        columns["image"] = [str(item.image) for item in items]
    rows = Dataset.from_dict(columns)
    return rows.cast_column("image", Image()) if items[0].image else rows


@dataclass
class Watched:
    """An embedder whose items are counted, and its seconds."""

    embedder: Embedder
    items: int = 0
    seconds: float = 0.0

    @property
    def name(self) -> str:
        return self.embedder.name

    @property
    def dimension(self) -> int:
        return self.embedder.dimension

    def encode(self, items: Sequence[Item]) -> Vectors:
        began = time.perf_counter()
        vectors = self.embedder.encode(items)
        self.seconds += time.perf_counter() - began
        self.items += len(items)
        return vectors


def random_vectors(path: Path, count: int, generator: np.random.Generator) -> Vectors:
    """Returns different vectors of norm 1, `(count, DIMENSION)` float32, memory-mapped from a new file."""
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (count, DIMENSION))  # type: ignore[no-untyped-call]
    for start in range(0, count, BLOCK):
        stored[start : start + BLOCK] = normalised(generator.standard_normal((BLOCK, DIMENSION), np.float32))
    stored.flush()
    vectors: Vectors = np.load(path, mmap_mode="c")  # torch warns of a map that cannot be written to
    return vectors


def near(vectors: Vectors, generator: np.random.Generator) -> Vectors:
    noise = normalised(generator.standard_normal(vectors.shape, np.float32))
    return normalised(LIKENESS * vectors + noise)


def in_turn(runs: int, ours: Callable[[], Ours], theirs: Callable[[], Theirs]) -> tuple[Ours, float, Theirs, float]:
    """Returns what each returned last and the median of its seconds; by turns, so that other work slows both alike."""
    seconds: list[float] = []
    seconds_of_theirs: list[float] = []
    for _ in range(runs):
        began = time.perf_counter()
        result = ours()
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        result_of_theirs = theirs()
        seconds_of_theirs.append(time.perf_counter() - began)
    return result, statistics.median(seconds), result_of_theirs, statistics.median(seconds_of_theirs)


def peak(work: Callable[[], object]) -> float:
    """Returns the most memory that Python and NumPy held at once beyond what they held before, in MiB."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / MIB


def require_same(scores: Scores, scores_of_mteb: dict[str, dict[str, float]]) -> None:
    """Raises `SystemExit` if a score is another; where candidates tie, mteb decides by name and ours is expected."""
    for name, theirs in scores_of_mteb.items():
        ours = scores.tasks[name]
        for metric, named in SAME_METRICS.items():
            require_equal(f"{name}: {metric}", ours.metrics[metric], theirs[named], ours.tie_rate + ROUNDING)


def require_equal(name: str, ours: float, theirs: float, tolerance: float) -> None:
    if not abs(ours - theirs) <= tolerance:
        raise SystemExit(f"{name}: {ours} here and {theirs} there: what differs in result does not compare in time")


def compared(name: str, value: float, unit: str, peer: float, goal: float | None = None) -> Row:
    return Row(name, value, unit, peer, peer / value, goal, None if goal is None else value <= goal)


if __name__ == "__main__":
    typer.run(main)

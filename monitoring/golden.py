"""Golden queries: questions with known answers and stored vectors, asked of the served model as users ask it.

Drift statistics look at what comes in, and miss a server that reads it wrongly: 10 % of traffic with swapped channels
cost nine points of recall and no statistic saw it. Vectors that are no longer the stored ones show that at once.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import json_lines
from components.corpus import Item, Query, read_queries, task_names
from components.embedder import Embedder, Vectors
from components.errors import DataInvalid, EmbedlineError, UsageError
from components.files import atomic_directory

QUERIES, CANDIDATES = 48, 200
LEAST_COSINE = 0.99
"""Neighbours in a batch and other processors move a vector far less, a wrong tokenizer or channel far more."""
ITEMS, QUESTIONS = "items.parquet", "questions.json"
HISTORY = "golden.jsonl"
"""The file of the reports, beside the history of the windows."""


@dataclass(frozen=True)
class Golden:
    """Items with their vectors `(n, dimension)`, and questions: a query, its candidates and the relevant ones of these,
    as positions of items."""

    items: Sequence[Item]
    vectors: Vectors
    questions: Sequence[tuple[int, list[int], list[int]]]


@dataclass(frozen=True)
class GoldenReport:
    """How the served model answered: hit@1 beside that of the stored vectors, the least cosine to these, the median
    time of a query in milliseconds. `problem` says in words what is wrong, None if nothing is."""

    time: float
    version: str
    queries: int
    hit_at_1: float
    known_hit_at_1: float
    least_cosine: float
    median_ms: float
    problem: str | None


def make(embedder: Embedder, data: Path, folder: Path) -> None:
    """Writes the golden queries of a model: held-out queries of every set, and the vectors that `embedder` gives them.

    Raises `UsageError` if `data` has no evaluation set.
    """
    if not (tasks := task_names(data, "eval")):
        raise UsageError(
            f"{data}/eval holds no evaluation set", "Golden queries are taken from it: `embedline ingest`."
        )
    each = max(1, QUERIES // len(tasks))
    queries = [query for task in tasks for query in spread(list(read_queries(data, "eval", task)), each)]
    positions: dict[Item, int] = {}
    questions = [question(query, positions) for query in queries]
    items = list(positions)
    vectors = embedder.encode(items)
    with atomic_directory(folder) as partial:
        table = pa.table(
            {
                "text": [item.text for item in items],
                "image": pa.array([item.image.read_bytes() if isinstance(item.image, Path) else None for item in items],
                                  pa.binary()),
                "instruction": [item.instruction for item in items],
                "vector": list(vectors),
            }
        )  # fmt: skip
        pq.write_table(table, partial / ITEMS)
        (partial / QUESTIONS).write_text(json.dumps(questions), encoding="utf-8")


def read(folder: Path) -> Golden:
    """Returns the golden queries in a folder. Raises `DataInvalid` if they cannot be read."""
    try:
        columns = pq.read_table(folder / ITEMS).to_pydict()
        questions = json.loads((folder / QUESTIONS).read_text(encoding="utf-8"))
        rows = zip(columns["text"], columns["image"], columns["instruction"], strict=True)
        items = [Item(text, image, instruction=instruction) for text, image, instruction in rows]
        return Golden(items, np.array(columns["vector"], np.float32), [tuple(each) for each in questions])
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise DataInvalid(
            f"{folder} holds no golden queries: {error}", f"Remove {folder}; they are made again."
        ) from error


def ask(embedder: Embedder, golden: Golden, version: str) -> GoldenReport:
    """Returns how the served model answers the golden queries; one that does not answer is a report too."""
    now = time.time()
    asked = sorted({query for query, _, _ in golden.questions})
    try:
        answers = embedder.encode(golden.items)
        seconds = []
        for query in asked:
            began = time.perf_counter()
            answers[query] = embedder.encode([golden.items[query]])[0]  # alone, as a user's is
            seconds.append(time.perf_counter() - began)
    except EmbedlineError as error:
        return GoldenReport(now, version, len(golden.questions), 0.0, hit_rate(golden, golden.vectors), -1.0, 0.0,
                            error.problem)  # fmt: skip
    if answers.shape != golden.vectors.shape:
        return GoldenReport(now, version, len(golden.questions), 0.0, hit_rate(golden, golden.vectors), -1.0, 0.0,
                            f"it answers {answers.shape}, not {golden.vectors.shape}")  # fmt: skip
    cosines = (answers * golden.vectors).sum(axis=1)
    worst = int(np.argmin(cosines))
    hits, known = hit_rate(golden, answers), hit_rate(golden, golden.vectors)
    problem = None
    if not cosines[worst] >= LEAST_COSINE:
        count = int((~(cosines >= LEAST_COSINE)).sum())
        problem = (
            f"{count} of {len(cosines)} items have other vectors than stored, the least cosine {cosines[worst]:.4f} < "
            f"{LEAST_COSINE}; hit@1 {hits:.3f}, known {known:.3f}"
        )
    milliseconds = statistics.median(seconds) * 1000
    return GoldenReport(now, version, len(golden.questions), hits, known, float(cosines[worst]), milliseconds, problem)


def append(path: Path, report: GoldenReport) -> None:
    """Adds a report to the history."""
    json_lines.append(path, [asdict(report)])


def read_history(path: Path) -> list[GoldenReport]:
    """Returns the reports of a history, none if there is no such file; a last line that was cut off is left out.

    Raises `DataInvalid` that names any other line that is no report.
    """
    return json_lines.read(path, lambda facts: GoldenReport(**facts), "report of golden queries")


def hit_rate(golden: Golden, vectors: Vectors) -> float:
    """Returns the share of questions whose nearest candidate is relevant."""
    hits = 0
    for query, candidates, relevant in golden.questions:
        hits += candidates[int(np.argmax(vectors[candidates] @ vectors[query]))] in relevant
    return hits / len(golden.questions)


def question(query: Query, positions: dict[Item, int]) -> tuple[int, list[int], list[int]]:
    """Returns a query as positions, with at most `CANDIDATES` of its candidates; the relevant ones stay."""
    relevant = {query.candidates[place] for place in query.relevant}
    others = [item for item in dict.fromkeys(query.candidates) if item not in relevant]
    offered = [*relevant, *others[: max(0, CANDIDATES - len(relevant))]]

    def place(item: Item) -> int:
        return positions.setdefault(item, len(positions))

    return place(query.item), [place(item) for item in offered], [place(item) for item in offered if item in relevant]


def spread(queries: Sequence[Query], count: int) -> list[Query]:
    """Returns so many of the queries, evenly spaced."""
    places = np.linspace(0, len(queries) - 1, min(count, len(queries))).round().astype(int)
    return [queries[place] for place in places]

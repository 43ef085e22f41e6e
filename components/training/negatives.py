"""Hard negatives: what a model takes for an answer to a query and is none, mined once and stored to be read.

A candidate nearly as near as the positive is probably an answer that nobody has labelled, and is left out: TopK-PercPos
of Moreira et al., NV-Retriever (2024). Where a query says what it wants, what is of another modality and yet nearer
than the positive is a negative too: Lin et al., MM-Embed (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os.path import commonpath
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from components.embedder import Embedder
from components.errors import UsageError
from components.training.config import Negatives
from components.training.examples import (
    IMAGE,
    INSTRUCTION,
    NONE,
    TEXT,
    Examples,
    Integers,
    modalities,
    row_numbers,
)

EXACT = 100_000  # a pool up to this size is searched exactly
SCORES_AT_ONCE = 2**24
PROBES = 32  # cells of the approximate index that a query looks into
CHUNK = 2048
UNKNOWN = -2

Floats = NDArray[np.float32]
Excluded = Callable[[Integers, Integers], NDArray[np.bool_]]


@dataclass(frozen=True)
class Mined:
    """The negatives of `n` queries: `positions (n, k)` in the pool, or `(n, k, 3)` in `Examples`; -1 where too few.

    `scores (n, k)` and `positive_scores (n,)` are inner products with the query, `reranker_scores (n, 1 + k)` a
    reranker's outputs for the positive and the negatives; NaN where there is no negative.
    """

    positions: NDArray[np.int32]
    scores: Floats
    positive_scores: Floats
    reranker_scores: Floats | None = None


@dataclass(frozen=True)
class HardNegatives:
    """Each row's hard negatives: `positions (rows, k, 3)` in `Examples`, -1 where a row has fewer.

    `scores (rows, 1 + k)` are a reranker's, of the positive and the negatives, NaN where a row has fewer.
    """

    positions: NDArray[np.int32]
    scores: Floats | None = None


def mine_examples(embedder: Embedder, examples: Examples, settings: Negatives) -> dict[str, Mined]:
    """Returns the negatives of every row of every task, as positions in `examples`.

    The pool of a task are its own positives, for an answer is looked for among them, and, with
    `settings.other_modalities`, the positives of all tasks that are of a modality for which it never asks. No negative
    of a row is what has the content of its query or of its positive, or stands in any pair, of any task, with one of
    these: synonyms, translations, the other images of a label. Rows without an instruction, which do not say what
    they want, get no negatives of another modality. Every different item is encoded once; memory grows with their
    number times the dimension.
    """
    sides = [side[task] for task in examples.tasks for side in (examples.queries, examples.positives)]
    items, numbers = np.unique(np.concatenate(sides), axis=0, return_inverse=True)
    halves = np.split(numbers.reshape(-1), np.cumsum([len(side) for side in sides])[:-1])
    pairs = list(zip(halves[::2], halves[1::2], strict=True))
    content, kinds = row_numbers(items[:, [TEXT, IMAGE]]), modalities(items)
    known = _pair_keys([(content[queries], content[positives]) for queries, positives in pairs], len(items))
    vectors = _encode(embedder, examples, items)
    all_positives = np.unique(np.concatenate(halves[1::2]))

    def are_joined(some: Integers, others: Integers) -> NDArray[np.bool_]:
        keys = content[some] * len(items) + content[others]
        joined: NDArray[np.bool_] = known[np.searchsorted(known, keys).clip(max=len(known) - 1)] == keys
        return joined

    def of_task(queries: Integers, positives: Integers) -> Mined:
        unasked_for = ~np.isin(kinds[all_positives], kinds[positives]) & settings.other_modalities
        pool = np.union1d(positives, all_positives[unasked_for])

        def excluded(rows: Integers, candidates: Integers) -> NDArray[np.bool_]:
            query, positive, candidate = queries[rows, None], positives[rows, None], pool[candidates]
            unasked: NDArray[np.bool_] = (items[query, INSTRUCTION] == NONE) & (kinds[candidate] != kinds[positive])
            return unasked | are_joined(query, candidate) | are_joined(positive, candidate)

        places = np.searchsorted(pool, positives)
        found = mine(vectors[queries], places, vectors[pool], kinds[pool], excluded, settings)
        missing = found.positions[..., None] == NONE
        return replace(found, positions=np.where(missing, NONE, items[pool[found.positions]]).astype(np.int32))

    return {task: of_task(*pair) for task, pair in zip(examples.tasks, pairs, strict=True)}


def mine(
    queries: Floats, positives: Integers, pool: Floats, kinds: Integers, excluded: Excluded, settings: Negatives
) -> Mined:
    """Returns at most `settings.per_query` negatives of each of `queries (n, d)` from `pool (m, d)`.

    Vectors are L2-normalised; `positives (n,)` are positions in the pool, `kinds (m,)` its modalities, and
    `excluded(rows (r,), candidates (r, c))` is true where a pool item is an answer to a query, known or the query
    itself. Among the nearest `settings.depth` of the positive's modality, those at or below `settings.margin` times
    the positive's score are negatives (below a score of 0, as much below it as the margin asks for above); among the
    nearest `settings.depth` of the other modalities, those above the positive's score. The nearest of both come in
    turn, one of the positive's modality first; where one sort runs out, the other fills up.

    MM-Embed takes the former from the ranks below 45 instead of by a margin, and draws one sort or the other by chance.
    """
    scores_of_positives = np.empty(len(queries), np.float32)
    positions = np.empty((len(queries), settings.per_query), np.int32)
    scores = np.empty(positions.shape, np.float32)
    for kind in np.unique(kinds[positives]):
        rows = np.flatnonzero(kinds[positives] == kind)
        own = np.einsum("nd,nd->n", queries[rows], pool[positives[rows]])
        limit = (own - (1 - settings.margin) * np.abs(own))[:, None]
        sorts = []
        for members, is_wrong in ((np.flatnonzero(kinds == kind), False), (np.flatnonzero(kinds != kind), True)):
            near, near_scores = nearest(queries[rows], pool[members], settings.depth)
            candidates = members[near]
            admitted = near_scores > own[:, None] if is_wrong else near_scores <= limit
            admitted &= (near != NONE) & ~excluded(rows, candidates)
            sorts.append(_first(candidates, near_scores, admitted, settings.per_query))
        candidates, near_scores = (np.stack(both, 2).reshape(len(rows), -1) for both in zip(*sorts, strict=True))
        positions[rows], scores[rows] = _first(candidates, near_scores, candidates != NONE, settings.per_query)
        scores_of_positives[rows] = own
    return Mined(positions, scores, scores_of_positives)


def nearest(queries: Floats, pool: Floats, depth: int) -> tuple[Integers, Floats]:
    """Returns positions and scores, `(n, min(depth, m))`, best first, of the pool's vectors nearest to each query.

    Exact up to `EXACT` vectors in the pool, approximate beyond.
    """
    search = exact if len(pool) <= EXACT else approximate
    return search(queries, pool, min(depth, len(pool)))


def exact(queries: Floats, pool: Floats, depth: int) -> tuple[Integers, Floats]:
    """Searches by comparing all with all, in blocks of at most `SCORES_AT_ONCE` scores."""
    others = torch.from_numpy(pool).T
    block = max(1, SCORES_AT_ONCE // max(1, len(pool)))
    found = [(part @ others).topk(depth) for part in torch.from_numpy(queries).split(block)]
    scores, positions = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return positions, scores


def approximate(queries: Floats, pool: Floats, depth: int) -> tuple[Integers, Floats]:
    """Searches the `PROBES` nearest cells of FAISS's inverted file; position -1 where these hold fewer than `depth`."""
    import faiss

    cells = round(len(pool) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(pool.shape[1]), pool.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
    index.train(pool)
    index.add(pool)
    index.nprobe = min(PROBES, cells)
    scores, positions = index.search(queries, depth)
    return positions, scores


def write_negatives(mined: Mapping[str, Mined], examples: Examples, directory: Path) -> None:
    """Writes a file for each task: each row's query, positive and negatives in words and file names, with the scores.

    Names of images are relative to the folder that all images of the training set have in common. A reranker's
    scores are null where there was none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    names = _names(examples)
    for task, found in mined.items():
        count = found.scores.shape[1]
        missing = pa.array((found.positions == NONE).all(2).reshape(-1))
        unscored = np.full((len(found.scores), 1 + count), np.nan, np.float32)
        reranked = unscored if found.reranker_scores is None else found.reranker_scores
        scored = _parts(found.positions.reshape(-1, 3), *names) | {
            "score": pa.array(found.scores.reshape(-1)),
            "reranker_score": pa.array(reranked[:, 1:].reshape(-1), from_pandas=True),
        }
        columns = {
            "query": _struct(_parts(examples.queries[task], *names)),
            "positive": _struct(_parts(examples.positives[task], *names)),
            "positive_score": pa.array(found.positive_scores),
            "positive_reranker_score": pa.array(reranked[:, 0], from_pandas=True),
            "negatives": pa.FixedSizeListArray.from_arrays(_struct(scored, missing), count),
        }
        pq.write_table(pa.table(columns), directory / f"{task}.parquet")


def read_negatives(directory: Path, examples: Examples, per_query: int) -> dict[str, HardNegatives]:
    """Returns the first `per_query` negatives of each row of each task, as positions in `examples`.

    Rows are found by what they say, so neither their order nor that of the texts and images matters. Raises
    `UsageError` if a task or a row has no negatives in the directory, or if fewer a query were mined.
    """
    return {task: _read(directory / f"{task}.parquet", task, examples, per_query) for task in examples.tasks}


def _read(file: Path, task: str, examples: Examples, per_query: int) -> HardNegatives:
    remedy = "Set negatives.model and negatives.per_query, and mine again."
    if not file.is_file():
        raise UsageError(f"{file}: there are no negatives of the task {task}", remedy)
    table = pq.read_table(file).combine_chunks()
    count = table.schema.field("negatives").type.list_size
    if count < per_query:
        raise UsageError(f"{file}: {per_query} negatives a query are wanted, {count} were mined", remedy)
    names = _names(examples)
    stored = np.concatenate([_positions(table[name].combine_chunks(), *names) for name in ("query", "positive")], 1)
    wanted = np.concatenate([examples.queries[task], examples.positives[task]], 1)
    numbers = row_numbers(np.concatenate([stored, wanted]))
    place = np.full(len(numbers), NONE)
    place[numbers[: len(stored)]] = np.arange(len(stored))
    rows = place[numbers[len(stored) :]]
    items = table["negatives"].combine_chunks().values
    negatives = _positions(items, *names).reshape(-1, count, 3)[rows, :per_query]
    if (rows == NONE).any() or (negatives == UNKNOWN).any():
        raise UsageError(f"{file}: the negatives were mined from other data", "Mine again.")
    positive_scores = table["positive_reranker_score"]
    if positive_scores.null_count == len(table):
        return HardNegatives(negatives)
    scores = pc.struct_field(items, "reranker_score").to_numpy(zero_copy_only=False).reshape(-1, count)[rows]
    return HardNegatives(negatives, np.column_stack([positive_scores.to_numpy()[rows], scores[:, :per_query]]))


def _first(positions: Integers, scores: Floats, admitted: NDArray[np.bool_], count: int) -> tuple[Integers, Floats]:
    """Returns `(n, count)` of both: the first that are admitted, then -1 and NaN."""
    order = np.argsort(~admitted, axis=1, kind="stable")[:, :count]
    taken = np.take_along_axis(admitted, order, 1)
    padding = ((0, 0), (0, count - order.shape[1]))
    first = np.where(taken, np.take_along_axis(positions, order, 1), NONE)
    first_scores = np.where(taken, np.take_along_axis(scores, order, 1), np.float32(np.nan))
    return np.pad(first, padding, constant_values=NONE), np.pad(first_scores, padding, constant_values=np.nan)


def _pair_keys(pairs: list[tuple[Integers, Integers]], count: int) -> Integers:
    """Returns, sorted, `a * count + b` of every two of `count` contents in a pair; each is in one with itself."""
    both_ways = [part for some, others in pairs for part in (some * count + others, others * count + some)]
    return np.unique(np.concatenate([np.arange(count) * (count + 1), *both_ways]))


def _encode(embedder: Embedder, examples: Examples, items: NDArray[np.int32]) -> Floats:
    vectors = np.empty((len(items), embedder.dimension), np.float32)
    for start in range(0, len(items), CHUNK):
        chunk = [examples.item(row) for row in items[start : start + CHUNK].tolist()]
        vectors[start : start + CHUNK] = embedder.encode(chunk)
    return vectors


def _names(examples: Examples) -> tuple[pa.Array, pa.Array]:
    """Returns the texts, and the names of the images."""
    root = commonpath(image.parent for image in examples.images) if examples.images else ""
    names = [image.relative_to(root).as_posix() for image in examples.images]
    return pa.array(examples.texts, pa.string()), pa.array(names, pa.string())


def _parts(positions: NDArray[np.int32], texts: pa.Array, images: pa.Array) -> dict[str, pa.Array]:
    """Returns what `positions (n, 3)` stand for, null where there is none."""
    sources = {"text": (texts, TEXT), "image": (images, IMAGE), "instruction": (texts, INSTRUCTION)}
    return {
        name: source.take(pa.array(positions[:, part], mask=positions[:, part] == NONE))
        for name, (source, part) in sources.items()
    }


def _positions(items: pa.StructArray, texts: pa.Array, images: pa.Array) -> NDArray[np.int32]:
    """Returns `(n, 3)`, the opposite of `_parts`: -1 where there is none, `UNKNOWN` for what the training set lacks."""
    sources = {"text": texts, "image": images, "instruction": texts}
    parts = dict(zip([field.name for field in items.type], items.flatten(), strict=True))
    found = [pc.fill_null(pc.index_in(parts[name], source), UNKNOWN).to_numpy() for name, source in sources.items()]
    absent = [parts[name].is_null().to_numpy(zero_copy_only=False) for name in sources]
    return np.where(absent, NONE, found).T.astype(np.int32)


def _struct(parts: Mapping[str, pa.Array], missing: pa.Array | None = None) -> pa.StructArray:
    return pa.StructArray.from_arrays(list(parts.values()), list(parts), mask=missing)

"""The vectors of a suite's items: one memory-mapped file a set and side, kept under the key of all it depends on.

A killed evaluation goes on where it was. Sets with the same candidates share their file, and items that several sets
share are encoded once: a file takes what the files before it hold. Two processes that evaluate the same model share the
work, since each file is locked by who fills it. What a file holds is believed only if its record names the same key and
the same checksum; otherwise it is computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from components.backends.directory import Unopened, opened
from components.backends.multi_vector import MultiVectorEmbedder
from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.embedder import Embedder, Vectors
from components.errors import EmbedlineError
from components.evaluation.scoring import Cosine, MaxSim, Positions, Similarity, normalised
from components.evaluation.sets import Suite
from components.evaluation.vector_files import FileRecord, SideName, VectorFile, begun, complete, header, sums
from components.source import code_digest, is_module, modules_of

SIDES: tuple[SideName, SideName] = ("query", "document")
AnyEmbedder = Embedder | MultiVectorEmbedder
Sided = MultiVectorEmbedder | SentenceTransformerEmbedder
"""Embedders that treat queries and documents differently."""


@dataclass(frozen=True)
class Done:
    """How far the vectors are: of the set at work, and of all sets together."""

    task: str
    items: int
    of: int
    all_items: int
    of_all: int


Progress = Callable[[Done], None]


@dataclass(frozen=True)
class Side:
    """The vectors of the items at `positions (u,)` of a suite: one each, `vectors (u, dimension)` float32, mapped from
    their file and L2-normalised; of a multi-vector model those of item `i` are rows `bounds[i]` to `bounds[i + 1]`."""

    positions: Positions
    vectors: Vectors
    bounds: NDArray[np.int64] | None
    _order: NDArray[np.intp] = field(repr=False)

    def parts(self, rows: Positions) -> list[Vectors]:
        """Returns the vectors of each of these items, `(1 or tokens, dimension)`."""
        if self.bounds is None:
            return list(self.vectors[rows][:, None])
        return [self.vectors[self.bounds[row] : self.bounds[row + 1]] for row in rows]

    def rows(self, positions: Positions) -> NDArray[np.intp]:
        """Returns which of the side's items those at `positions` of the suite are."""
        return np.asarray(self._order[np.searchsorted(self.positions, positions, sorter=self._order)])


def similarity(queries: Side, candidates: Side) -> Similarity:
    """Returns the scores of a set: cosines, or of a multi-vector model the sums of the highest ones."""
    if queries.bounds is None or candidates.bounds is None:  # a model has either for both sides or for none
        return Cosine(queries.vectors, candidates.vectors)
    return MaxSim(queries.vectors, queries.bounds, candidates.vectors, candidates.bounds)


def cached_vectors(
    embedder: AnyEmbedder | Unopened,
    name: str,
    fingerprint: str,
    suite: Suite,
    chunk: int,
    cache: Path,
    progress: Progress,
) -> tuple[dict[str, tuple[Side, Side]], float]:
    """Returns, by set, the vectors of its queries and of its candidates, and how many items a second were encoded.

    Items that no earlier session encoded are encoded now, `chunk` at a time, those of like length together; a kill
    costs the chunk at hand. If there are none, an unopened embedder stays unopened. The speed counts only the
    embedder's own time, whenever that was. A file that is not what its record says is named in a warning.

    Raises `EmbedlineError` naming model, set and row if a vector is zero or not finite, or if the embedder answers with
    another shape than it announced, `DataInvalid` naming set, row and file if an image cannot be read.
    """
    key = vectors_key(embedder.kind if isinstance(embedder, Unopened) else type(embedder), fingerprint)
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True)
    files = list(_files(suite, folder, key))
    filled = _Filled(embedder, name, suite, chunk, progress, files)
    busy = [file for file in files if not filled.add(file, patient=False)]
    for file in busy:
        filled.add(file, patient=True)
    sides = [filled.sides[file.path] for file in files]
    items = sum(record.items for record in filled.records.values())
    seconds = sum(record.seconds for record in filled.records.values())
    by_set = zip((questions.name for questions in suite.sets), zip(sides[::2], sides[1::2], strict=True), strict=True)
    return dict(by_set), items / seconds if seconds else 0.0


def dimension(sides: Mapping[str, tuple[Side, Side]]) -> int:
    """Returns the length of a model's vectors."""
    return next(int(side.vectors.shape[1]) for both in sides.values() for side in both)


def vectors_key(kind: type[AnyEmbedder], fingerprint: str) -> str:
    """Returns the SHA-256 of what all vectors of a model depend on: its weights, backend, dtype and code."""
    return _digest(
        {
            "fingerprint": fingerprint,
            "backend": f"{kind.__module__}.{kind.__qualname__}",
            "vector": "float32",
            "code": _code_digest(kind),
        }
    )


class _Filled:
    """The files that are complete, and which of them holds the vectors of which item."""

    def __init__(
        self,
        embedder: AnyEmbedder | Unopened,
        name: str,
        suite: Suite,
        chunk: int,
        progress: Progress,
        files: Sequence[VectorFile],
    ) -> None:
        self.source, self.name, self.suite, self.chunk, self.progress = embedder, name, suite, chunk, progress
        kind = embedder.kind if isinstance(embedder, Unopened) else type(embedder)
        self.is_multi_vector = issubclass(kind, MultiVectorEmbedder)
        self.needed = np.zeros(len(suite.items), bool)
        for file in files:
            self.needed[file.positions] = True
        self.sides: dict[Path, Side] = {}
        self.records: dict[Path, FileRecord] = {}
        self.sources: list[Side] = []
        self.holders = {side: np.full(len(suite.items), -1, np.int32) for side in SIDES}
        if not issubclass(kind, Sided):
            self.holders = dict.fromkeys(SIDES, self.holders["query"])  # the same vector, whatever the item's role

    @cached_property
    def embedder(self) -> AnyEmbedder:
        return opened(self.source)

    def add(self, file: VectorFile, patient: bool) -> bool:
        """Completes a file; returns False, unless `patient`, if another process is at it."""
        if file.path not in self.sides:
            try:
                with FileLock(f"{file.path}.lock", timeout=-1 if patient else 0):
                    record = complete(file) or self._encode(file)
            except Timeout:
                return False
            self.records[file.path] = record
            self.sides[file.path] = _side(file, self.is_multi_vector)
            self.holders[file.side][file.positions] = len(self.sources)
            self.sources.append(self.sides[file.path])
        self._tell(file, len(file.positions))
        return True

    def _tell(self, file: VectorFile, done: int) -> None:
        known = np.zeros(len(self.suite.items), bool)
        known[file.positions[:done]] = True
        for holder in self.holders.values():
            known |= holder >= 0
        self.progress(Done(file.task, done, len(file.positions), int(known.sum()), int(self.needed.sum())))

    def _encode(self, file: VectorFile) -> FileRecord:
        """Appends to the partial file; on a full disk that is an error, where a memory map would crash."""
        dimension, count = self.embedder.dimension, len(file.positions)
        record = begun(file, dimension)
        missing = np.cumsum(self.holders[file.side][file.positions] < 0)
        ends = len(header(record)) + record.rows * dimension * 4, record.done * 4
        mode = "r+b" if record.done else "wb"
        with file.partial.open(mode) as stream, file.counts.open(mode) as counts:
            for output, end in zip((stream, counts), ends, strict=True):
                output.truncate(end)
                output.seek(end)
            running = sums(file.partial, file.counts, record)
            while record.done < count:
                before = missing[record.done - 1] if record.done else 0
                stop = int(np.searchsorted(missing, before + self.chunk, side="right"))
                positions = file.positions[record.done : max(stop, record.done + 1)]
                vectors, encoded_now, seconds = self._vectors(file.side, positions)
                written = (
                    np.concatenate(vectors).astype("<f4", copy=False).tobytes(),
                    np.array([len(part) for part in vectors], "<i4").tobytes(),
                )
                for part, output, content in zip(running, (stream, counts), written, strict=True):
                    part.update(content)
                    output.write(content)
                    output.flush()
                    os.fsync(output.fileno())
                record = FileRecord(
                    key=file.key, dimension=dimension, done=record.done + len(positions),
                    rows=record.rows + sum(map(len, vectors)), checksum="".join(part.hexdigest() for part in running),
                    items=record.items + encoded_now, seconds=record.seconds + seconds,
                )  # fmt: skip
                record.write(file)
                self._tell(file, record.done)
            stream.seek(0)
            stream.write(header(record))
        file.partial.replace(file.path)
        return record

    def _vectors(self, side: SideName, positions: Positions) -> tuple[list[Vectors], int, float]:
        """Returns the vectors of each item, `(1 or tokens, dimension)`, how many were encoded now, and the seconds."""
        found: dict[int, Vectors] = {}
        holders = self.holders[side][positions]
        for holder in np.unique(holders[holders >= 0]):
            there = positions[holders == holder]
            source = self.sources[holder]
            found |= zip(there.tolist(), source.parts(source.rows(there)), strict=True)
        missing = positions[holders < 0]
        began = time.perf_counter()
        try:
            answers = self._answers(side, missing) if len(missing) else []
        except (EmbedlineError, OSError, ValueError) as error:
            if unreadable := self.suite.unreadable(missing):
                raise unreadable from error
            raise
        seconds = time.perf_counter() - began
        found |= zip(missing.tolist(), answers, strict=True)
        return [found[position] for position in positions.tolist()], len(missing), seconds

    def _answers(self, side: SideName, positions: Positions) -> Sequence[Vectors]:
        items = [self.suite.items[position] for position in positions]

        def place(row: int) -> str:
            return f"{self.name}: {self.suite.place(int(positions[row]))}"

        if isinstance(self.embedder, MultiVectorEmbedder):
            answers = self.embedder.encode(items, side)
            owner = np.repeat(np.arange(len(items)), [len(answer) for answer in answers])
            tokens = normalised(np.concatenate(answers), lambda row: place(int(owner[row])))
            return np.split(tokens, np.cumsum([len(answer) for answer in answers])[:-1])
        embedder = self.embedder
        if isinstance(embedder, SentenceTransformerEmbedder):
            answer = embedder.encode(items, side)
        else:
            answer = embedder.encode(items)
        vectors = np.asarray(answer, np.float32)
        if vectors.shape != (len(items), self.embedder.dimension):
            expected = (len(items), self.embedder.dimension)
            raise EmbedlineError(
                f"{self.name}: {len(items)} items gave vectors of shape {vectors.shape}, not {expected}",
                "No score is given. The embedder must return one vector an item.",
            )
        return list(normalised(vectors, place)[:, None])


def _files(suite: Suite, folder: Path, key: str) -> Iterator[VectorFile]:
    for questions in suite.sets:
        pooled = np.concatenate([pool.candidates for pool in questions.pools])
        for side, positions in zip(SIDES, (questions.queries, pooled), strict=True):
            in_order = np.array(sorted(np.unique(positions), key=suite.size), np.int32)
            digest = _digest([suite.digest, [suite.identity(position) for position in in_order]])
            path = folder / f"{side}-{digest[:32]}.npy"
            yield VectorFile(questions.name, side, in_order, path, _digest([key, side, digest]))


def _side(file: VectorFile, is_multi_vector: bool) -> Side:
    vectors, bounds = np.load(file.path, mmap_mode="r"), None
    if is_multi_vector:
        bounds = np.concatenate([[0], np.cumsum(np.fromfile(file.counts, "<i4"), dtype=np.int64)])
    return Side(file.positions, vectors, bounds, np.argsort(file.positions))


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code_digest(kind: type[AnyEmbedder]) -> str:
    """Returns the SHA-256 of the source that a model's vectors come from: the same weights under other code give other
    vectors. It is that of the embedder component, and of all that the module of this kind of model depends on."""
    own = [kind.__module__] if is_module(kind.__module__) else []
    return code_digest(*modules_of("components.embedder"), *own)

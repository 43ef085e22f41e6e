"""The vectors of a suite's items: one memory-mapped file a set and side, kept under the key of all it depends on.

A killed evaluation goes on where it was. Sets with the same candidates share their file, and items that several sets
share are encoded once: a file takes what the files before it hold. Two processes that evaluate the same model share the
work, since each file is locked by who fills it.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

import components.embedder
from components.backends.multi_vector import MultiVectorEmbedder
from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.embedder import Embedder, Vectors
from components.errors import EmbedlineError
from components.evaluation.scoring import Cosine, MaxSim, Positions, Similarity, normalised
from components.evaluation.sets import Suite

SideName = Literal["query", "document"]
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
    embedder: AnyEmbedder, name: str, fingerprint: str, suite: Suite, chunk: int, cache: Path, progress: Progress
) -> tuple[dict[str, tuple[Side, Side]], float]:
    """Returns, by set, the vectors of its queries and of its candidates, and how many items a second were encoded.

    Items that no earlier session encoded are encoded now, `chunk` at a time, those of like length together; a kill
    costs the chunk at hand. The speed counts only the embedder's own time, whenever that was.

    Raises `EmbedlineError` naming model, set and row if a vector is zero or not finite, or if the embedder answers with
    another shape than it announced, `DataInvalid` naming set, row and file if an image cannot be read.
    """
    folder = cache / vectors_key(embedder, fingerprint)
    folder.mkdir(parents=True, exist_ok=True)
    files = list(_files(suite, folder))
    shelf = _Shelf(embedder, name, suite, chunk, progress)
    busy = [file for file in files if not shelf.fill(file, patient=False)]
    for file in busy:
        shelf.fill(file, patient=True)
    sides = [_side(file, embedder) for file in files]
    encoded = [_recorded(file) for file in {file.path: file for file in files}.values()]
    speed = sum(part.items for part in encoded) / sum(part.seconds for part in encoded)
    by_set = zip((questions.name for questions in suite.sets), zip(sides[::2], sides[1::2], strict=True), strict=True)
    return dict(by_set), speed


def vectors_key(embedder: AnyEmbedder, fingerprint: str) -> str:
    """Returns the SHA-256 of what all vectors of a model depend on: its weights, backend, dtype and code."""
    backend = type(embedder)
    return _digest(
        {
            "fingerprint": fingerprint,
            "backend": f"{backend.__module__}.{backend.__qualname__}",
            "vector": ["float32", embedder.dimension],
            "code": _code_digest(),
        }
    )


@dataclass
class _File:
    """The file of one set and side: which items it holds, in the order in which they are encoded."""

    task: str
    side: SideName
    positions: Positions
    path: Path

    @property
    def partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def counts(self) -> Path:
        """How many vectors each item has, int32, of a multi-vector model."""
        return self.path.with_suffix(".counts")

    @property
    def record(self) -> Path:
        return self.path.with_suffix(".json")


@dataclass(frozen=True)
class _Encoded:
    """How many items of a file have their vectors and how many these are; how many of the items were encoded for it,
    and how long the embedder took, over all sessions."""

    done: int = 0
    rows: int = 0
    items: int = 0
    seconds: float = 0.0


class _Shelf:
    """Fills files, and remembers which file holds the vectors of which item."""

    def __init__(self, embedder: AnyEmbedder, name: str, suite: Suite, chunk: int, progress: Progress) -> None:
        self.embedder, self.name, self.suite, self.chunk, self.progress = embedder, name, suite, chunk, progress
        self.sources: list[Side] = []
        self.holders = {side: np.full(len(suite.items), -1, np.int32) for side in SIDES}
        if not isinstance(embedder, Sided):
            self.holders = dict.fromkeys(SIDES, self.holders["query"])  # the same vector, whatever the item's role

    def fill(self, file: _File, patient: bool) -> bool:
        """Completes a file; returns False, unless `patient`, if another process is at it."""
        if not file.path.is_file():
            try:
                with FileLock(f"{file.path}.lock", timeout=-1 if patient else 0):
                    if not file.path.is_file():
                        self._encode(file)
            except Timeout:
                return False
        self.holders[file.side][file.positions] = len(self.sources)
        self.sources.append(_side(file, self.embedder))
        self._tell(file, len(file.positions))
        return True

    def _tell(self, file: _File, done: int) -> None:
        known = np.zeros(len(self.suite.items), bool)
        known[file.positions[:done]] = True
        for holder in self.holders.values():
            known |= holder >= 0
        self.progress(Done(file.task, done, len(file.positions), int(known.sum()), len(known)))

    def _encode(self, file: _File) -> None:
        """Appends to the partial file; on a full disk that is an error, where a memory map would crash."""
        encoded = _recorded(file) if file.partial.is_file() else _Encoded()
        count, width = len(file.positions), self.embedder.dimension * 4
        missing = np.cumsum(self.holders[file.side][file.positions] < 0)
        with file.partial.open("r+b" if encoded.done else "wb") as stream, file.counts.open("ab") as counts:
            start = _header(stream, encoded.rows, self.embedder.dimension)
            stream.truncate(start + encoded.rows * width)
            stream.seek(0, os.SEEK_END)
            counts.truncate(encoded.done * 4)
            while encoded.done < count:
                before = missing[encoded.done - 1] if encoded.done else 0
                stop = int(np.searchsorted(missing, before + self.chunk, side="right"))
                positions = file.positions[encoded.done : max(stop, encoded.done + 1)]
                vectors, encoded_now, seconds = self._vectors(file.side, positions)
                stream.write(np.concatenate(vectors).astype("<f4", copy=False).tobytes())
                counts.write(np.array([len(part) for part in vectors], "<i4").tobytes())
                for written in (stream, counts):
                    written.flush()
                    os.fsync(written.fileno())
                encoded = _Encoded(
                    encoded.done + len(positions), encoded.rows + sum(map(len, vectors)),
                    encoded.items + encoded_now, encoded.seconds + seconds,
                )  # fmt: skip
                _record(file, encoded)
                self._tell(file, encoded.done)
            _header(stream, encoded.rows, self.embedder.dimension)
        file.partial.replace(file.path)

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
        told = embedder.encode(items, side) if isinstance(embedder, SentenceTransformerEmbedder) else None
        vectors = np.asarray(embedder.encode(items) if told is None else told, np.float32)
        if vectors.shape != (len(items), self.embedder.dimension):
            expected = (len(items), self.embedder.dimension)
            raise EmbedlineError(
                f"{self.name}: {len(items)} items gave vectors of shape {vectors.shape}, not {expected}",
                "No score is given. The embedder must return one vector an item.",
            )
        return list(normalised(vectors, place)[:, None])


def _files(suite: Suite, folder: Path) -> Iterator[_File]:
    for questions in suite.sets:
        pooled = np.concatenate([pool.candidates for pool in questions.pools])
        for side, positions in zip(SIDES, (questions.queries, pooled), strict=True):
            in_order = np.array(sorted(np.unique(positions), key=suite.size), np.int32)
            digest = _digest([suite.digest, [suite.identity(position) for position in in_order]])
            yield _File(questions.name, side, in_order, folder / f"{side}-{digest[:32]}.npy")


def _side(file: _File, embedder: AnyEmbedder) -> Side:
    vectors, bounds = np.load(file.path, mmap_mode="r"), None
    if isinstance(embedder, MultiVectorEmbedder):
        bounds = np.concatenate([[0], np.cumsum(np.fromfile(file.counts, "<i4"), dtype=np.int64)])
    return Side(file.positions, vectors, bounds, np.argsort(file.positions))


def _header(stream: BinaryIO, rows: int, dimension: int) -> int:
    """Writes what a NumPy file begins with and returns its length, which is the same for any number of rows."""
    stream.seek(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimension)}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.tell()


def _recorded(file: _File) -> _Encoded:
    return _Encoded(**json.loads(file.record.read_text(encoding="utf-8"))) if file.record.is_file() else _Encoded()


def _record(file: _File, encoded: _Encoded) -> None:
    unfinished = file.record.with_name(f".{file.record.name}.partial")
    unfinished.write_text(json.dumps(asdict(encoded)), encoding="utf-8")
    unfinished.replace(file.record)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code_digest() -> str:
    """Returns the SHA-256 of the embedder component's source: the same weights under other code give other vectors."""
    digest = hashlib.sha256()
    for file in sorted(Path(components.embedder.__path__[0]).glob("*.py")):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()

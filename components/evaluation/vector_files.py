"""A file of vectors and the record beside it, which says what the file holds; what does not match is not believed."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError

from components.corpus.manifest import Record
from components.evaluation.scoring import Positions
from components.files import write_text

SideName = Literal["query", "document"]
BLOCK = 2**22


@dataclass(frozen=True)
class VectorFile:
    """The file of one set and side: which items it holds, in the order in which they are encoded, and the digest of
    all that their vectors depend on."""

    task: str
    side: SideName
    positions: Positions
    path: Path
    key: str

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


class FileRecord(Record):
    """What a file holds: vectors of which key and dimension, of how many of its items, how many these are, and their
    checksum; how many items were encoded for it, and how long the embedder took, over all sessions."""

    key: str
    dimension: PositiveInt
    done: NonNegativeInt
    rows: NonNegativeInt
    checksum: str
    items: NonNegativeInt
    seconds: NonNegativeFloat

    def write(self, file: VectorFile) -> None:
        write_text(file.record, self.model_dump_json())


def complete(file: VectorFile) -> FileRecord | None:
    """Returns the record of a file that is complete; one that is not what its record says is named and removed."""

    def fits(record: FileRecord) -> bool:
        size = len(header(record)) + record.rows * record.dimension * 4
        with file.path.open("rb") as stream:
            begins_so = stream.read(len(header(record))) == header(record)
        return begins_so and file.path.stat().st_size == size and record.done == len(file.positions)

    return _believed(file, file.path, fits)


def begun(file: VectorFile, dimension: int) -> FileRecord:
    """Returns the record of a file that a killed session began, or a new one; what does not match is named and
    removed."""

    def fits(record: FileRecord) -> bool:
        return record.dimension == dimension and record.done <= len(file.positions)

    if record := _believed(file, file.partial, fits):
        return record
    empty = "".join(hashlib.blake2b(digest_size=32).hexdigest() for _ in range(2))
    record = FileRecord(key=file.key, dimension=dimension, done=0, rows=0, checksum=empty, items=0, seconds=0.0)
    record.write(file)
    return record


def sums(vectors: Path, counts: Path, record: FileRecord) -> tuple[hashlib.blake2b, hashlib.blake2b]:
    """Returns the hashes of what a record speaks of, as far as it is there: vectors, and how many each item has."""
    length = record.rows * record.dimension * 4
    return _sum(vectors, len(header(record)), length), _sum(counts, 0, record.done * 4)


def header(record: FileRecord) -> bytes:
    """Returns what a NumPy file of these vectors begins with, which has the same length for any number of them."""
    stream = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (record.rows, record.dimension)}
    np.lib.format.write_array_header_1_0(stream, described)
    return stream.getvalue()


def _believed(file: VectorFile, vectors: Path, fits: Callable[[FileRecord], bool]) -> FileRecord | None:
    if not vectors.is_file():
        return None
    record = _read(file.record)
    if not record:
        defect = "its record is missing or broken"
    elif record.key != file.key:
        defect = "its record is of another model, code or data set"
    elif not fits(record):
        defect = "it has not the shape that its record says"
    elif "".join(part.hexdigest() for part in sums(vectors, file.counts, record)) != record.checksum:
        defect = "its bytes are not those that were written"
    else:
        return record
    logging.getLogger(__name__).warning(f"{vectors}: {defect}; the vectors of {file.task} are computed again")
    for part in (vectors, file.counts, file.record):
        part.unlink(missing_ok=True)
    return None


def _read(path: Path) -> FileRecord | None:
    try:
        return FileRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _sum(path: Path, start: int, length: int) -> hashlib.blake2b:
    found = hashlib.blake2b(digest_size=32)
    if path.is_file():
        with path.open("rb") as stream:
            stream.seek(start)
            while block := stream.read(min(length, BLOCK)):
                found.update(block)
                length -= len(block)
    return found

"""Batches of MMEB's evaluation rows as positions in a list of different items: a million candidates cost as much as the
pool that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.corpus.quarantine import Rejected
from components.corpus.rows import CANDIDATE_COLUMNS, EVAL_SCHEMA, REQUIRED_COLUMNS, fits, is_list, relevant
from components.errors import DataInvalid

BLANK = -1
"""Stands for an item with neither text nor image."""
Position = Callable[[str, str, str], int]
"""Returns the position of the item of a text, an image path and an instruction, "" for none, or `BLANK`."""
Integers = NDArray[np.integer]
Codes = tuple[NDArray[np.int64], list[str]]
"""A column of strings: `(n,)` positions in the list of its different values, "" for a null."""


class UnfitRow(ValueError):
    """What is wrong with a row of a batch."""

    def __init__(self, row: int, defect: str) -> None:
        super().__init__(defect)
        self.row = row


def batches(opened: pq.ParquetFile, columns: Sequence[str], rows_at_once: int) -> Iterator[pa.RecordBatch]:
    """Yields the columns of an open file in memory that does not grow with the file.

    Raises `OSError` that names the row group if one is broken.
    """
    for group in range(opened.num_row_groups):  # pyarrow reads ahead through all groups that it is asked for
        try:
            for batch in opened.iter_batches(rows_at_once, [group], list(columns)):
                batch.validate(full=True)
                yield batch
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"row group {group}: {error}") from error


def evaluation_columns(schema: pa.Schema) -> list[str]:
    """Returns the names of those columns of a set that a file has. Raises `ValueError` if one is missing or of a type
    that cannot be read. A side that all candidates of a row lack may be one string; other columns may be all null."""
    names = schema.names
    if missing := [name for name in REQUIRED_COLUMNS[EVAL_SCHEMA] if name not in names]:
        raise ValueError(f"there is no column {missing[0]!r}, only {', '.join(names)}")
    for wanted in EVAL_SCHEMA:
        kind = schema.field(wanted.name).type if wanted.name in names else wanted.type
        others = fits(kind, pa.string()) if wanted.name in CANDIDATE_COLUMNS else pa.types.is_null(kind)
        if not (fits(kind, wanted.type) or others):
            raise ValueError(f"the column {wanted.name!r} holds {kind}, not {wanted.type}")
    if not any(is_list(schema.field(name).type) for name in CANDIDATE_COLUMNS):
        raise ValueError(f"neither of {', '.join(CANDIDATE_COLUMNS)} holds lists")
    return [name for name in EVAL_SCHEMA.names if name in names]


def query_positions(batch: pa.RecordBatch, position: Position) -> Integers:
    """Returns the positions of the queries `(rows,)`."""
    text, path, instruction = (_codes(batch, name) for name in ("qry_text", "qry_img_path", "qry_inst"))
    found = _items(position, text, path, instruction, np.arange(batch.num_rows))
    if (found == BLANK).any():
        raise UnfitRow(int(np.argmin(found)), "the query has neither text nor image")
    return found


def candidate_positions(batch: pa.RecordBatch, position: Position, blanks: bool) -> Iterator[Integers]:
    """Yields the positions of each row's candidates; a side that all of them lack may be one string."""
    listed = [name for name in CANDIDATE_COLUMNS if is_list(batch.column(name).type)]
    counts, *others = (lengths(batch.column(name)) for name in listed)
    for other in others:
        if (uneven := other != counts).any():
            raise UnfitRow(int(np.argmax(uneven)), "has not as many texts as image paths of candidates")
    rows = np.repeat(np.arange(batch.num_rows), counts)
    instructions, values = _codes(batch, "tgt_inst")
    texts, paths = (
        codes if name in listed else (codes[0][rows], codes[1])
        for name, codes in ((name, _codes(batch, name)) for name in CANDIDATE_COLUMNS)
    )
    found = _items(position, texts, paths, (instructions[rows], values), rows)
    if not blanks and (blank := found == BLANK).any():
        raise UnfitRow(int(rows[np.argmax(blank)]), "a candidate has neither text nor image")
    yield from np.split(found, np.cumsum(counts)[:-1])


def labels(batch: pa.RecordBatch) -> Iterator[Sequence[int]]:
    """Yields the relevant candidates of each row; where the file says nothing, candidate 0, as in MMEB."""
    column = batch.column("label").to_pylist() if "label" in batch.schema.names else [None] * batch.num_rows
    for row, cell in enumerate(column):
        if None in (found := relevant(cell)):
            raise UnfitRow(row, "a label is null")
        yield found


def _codes(batch: pa.RecordBatch, name: str) -> Codes:
    if name not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64), [""]
    column = batch.column(name)
    if is_list(column.type):
        column = column.flatten()
    encoded = pc.dictionary_encode(column.cast(pa.large_string()), null_encoding="encode")
    return encoded.indices.to_numpy().astype(np.int64), [value or "" for value in encoded.dictionary.to_pylist()]


def lengths(lists: pa.Array) -> NDArray[np.int64]:
    """Returns the length of each list `(rows,)`; a null has none."""
    return np.asarray(pc.list_value_length(lists).fill_null(0), np.int64)


def _items(position: Position, texts: Codes, paths: Codes, instructions: Codes, rows: Integers) -> Integers:
    """Returns the position of each item `(n,)`; only the different ones of a batch are looked at one by one.

    Raises `UnfitRow` with the row, of `rows (n,)`, that needs the first item which has no position.
    """
    sizes = tuple(len(values) for _, values in (texts, paths, instructions))
    combined = np.ravel_multi_index((texts[0], paths[0], instructions[0]), sizes)
    encoded = pa.array(combined).dictionary_encode()
    codes, different = np.asarray(encoded.indices), []
    for code, parts in enumerate(np.transpose(np.unravel_index(encoded.dictionary.to_numpy(), sizes))):
        text, path, instruction = parts
        try:
            different.append(position(texts[1][text], paths[1][path], instructions[1][instruction]))
        except (DataInvalid, Rejected, ValueError) as error:
            raise UnfitRow(int(rows[np.argmax(codes == code)]), str(error)) from error
    found: Integers = np.array(different, np.int32)[codes]
    return found

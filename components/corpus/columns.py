"""Single columns of an evaluation set's file, by which its rows are grouped."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.corpus.rows import IMAGE_PATH_COLUMNS

TEXT_ONLY = "text_only"
"""Is no column of a file: whether neither the query of a row nor one of its candidates is an image."""


def row_values(data: Path, task: str, columns: Collection[str]) -> dict[str, list[str]]:
    """Returns the values of those of the columns that the file of a set in `eval/` has, as text, by column; one value
    a row, in the order of the rows."""
    with pq.ParquetFile(data / "eval" / f"{task}.parquet") as file:
        there = set(file.schema_arrow.names)
        wanted = {*columns, *(IMAGE_PATH_COLUMNS if TEXT_ONLY in columns else ())} & there
        table = file.read(sorted(wanted))
    found = {column: list(map(str, table[column].to_pylist())) for column in columns if column in there}
    if TEXT_ONLY in columns:
        found[TEXT_ONLY] = _text_only(table)
    return found


def _text_only(table: pa.Table) -> list[str]:
    query, candidates = IMAGE_PATH_COLUMNS
    rows = table.select([query, candidates]).to_pylist()
    return [str(not (row[query] or any(row[candidates] or ()))).lower() for row in rows]

"""Windows: the requests of a period, or the last so many, read in bounded memory from wherever they were recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components.embedder import Vectors
from components.errors import DataInvalid, UsageError
from components.traffic.schema import FEEDBACK, REQUESTS
from components.traffic.writer import period

if TYPE_CHECKING:
    import pandas as pd

MOST = 5000
ROWS_AT_ONCE = 2000
NEEDED = ("time", "request_id", "embedding")
RANKS = ("time", "request_id", "taken")
RAW = ("raw_text", "raw_image")
Column = NDArray[Any]


@dataclass(frozen=True)
class Window:
    """Requests in the order of time: `vectors (n, dimension)` float32, NaN where a request got none, and the other
    columns that were recorded, by name: those with a value in any row. Numbers are float64, NaN where they are not
    known; words are str, empty there.

    `count` is how many requests there were, of which these `n` are a random sample.
    """

    vectors: Vectors
    columns: Mapping[str, Column]
    count: int

    def __len__(self) -> int:
        return len(self.vectors)

    def where(self, rows: NDArray[Any]) -> Window:
        """Returns the window of some rows, given by their positions or by a boolean each."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return Window(self.vectors[rows], columns, len(self.vectors[rows]))


def read_window(
    source: Path | pa.Table | pd.DataFrame,
    since: float | None = None,
    until: float | None = None,
    count: int | None = None,
    version: str | None = None,
    where: Mapping[str, str] | None = None,
    most: int = MOST,
    seed: int = 0,
) -> Window:
    """Returns the requests from `since` to before `until`, or the last `count` of them, at most `most` drawn at random.

    `source` is a folder of Parquet files of the schema `REQUESTS`, a table or a DataFrame; `time`, `request_id` and
    `embedding` must be there, any other column may lack. `version` and `where` choose a model version and a slice.
    Raises `UsageError` if the folder is not there, `DataInvalid` if a file is not of the schema, or the vectors have
    several dimensions.
    """
    wanted = dict(where or {}) | ({} if version is None else {"model_version": version})
    start, end = -np.inf if since is None else since, np.inf if until is None else until
    if count is not None:
        newest = _newest(_batches(source, start, end, ["time", *wanted]), start, end, wanted, count)
        start = float(newest.min(initial=np.inf))
    drawn = np.random.default_rng(seed)
    kept, keys, there = None, np.empty(0), 0
    for batch in _batches(source, start, end, [name for name in REQUESTS.names if name not in RAW]):
        rows = _chosen(batch, start, end, wanted)
        there += len(rows)
        kept = rows if kept is None else pa.concat_tables([kept, rows], promote_options="default")
        keys = np.concatenate([keys, drawn.random(len(rows))])
        if len(keys) > 2 * most:
            kept, keys = _sample(kept, keys, most)
    if kept is None:
        return Window(np.empty((0, 0), np.float32), {}, 0)
    kept, _ = _sample(kept, keys, most)
    kept = kept.sort_by([("time", "ascending"), ("request_id", "ascending")])
    recorded = [name for name in kept.column_names if name != "embedding" and kept[name].null_count < kept.num_rows]
    columns = {name: _column(kept[name]) for name in recorded}
    return Window(_vectors(kept["embedding"]), columns, there)


def read_column(
    source: Path | pa.Table | pd.DataFrame, name: str, since: float, until: float, version: str | None = None
) -> Column:
    """Returns one column of all requests of a period, those of a model version if one is named, empty where it is not
    recorded; raises as `read_window` does."""
    wanted = {} if version is None else {"model_version": version}
    names = list(dict.fromkeys(["time", name, *wanted]))
    found = [_chosen(batch, since, until, wanted) for batch in _batches(source, since, until, names)]
    parts = [_column(batch[name]) for batch in found if name in batch.column_names]
    return np.concatenate(parts) if parts else np.empty(0)


def read_requests(
    source: Path | pa.Table | pd.DataFrame, names: Sequence[str], since: float, until: float, ids: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Yields the columns `names` and `request_id` of the requests of a period that `ids` names; a column that is not
    recorded is left out. Raises as `read_window` does."""
    wanted = pa.array(list(ids), pa.string())
    for batch in _batches(source, since, until, ["time", "request_id", *names]):
        rows = _chosen(batch, since, until, {})
        found = rows.filter(compute.is_in(rows["request_id"], wanted))
        yield from found.drop_columns(["time"]).to_pylist()


def read_feedback(folder: Path, since: float, until: float) -> dict[str, int]:
    """Returns the rank that the user of each request took, the last one where there are several. Raises as
    `read_window` does; a folder that is not there holds no feedback."""
    taken: dict[str, int] = {}
    if not folder.is_dir():
        return taken
    tables = [_chosen(batch, since, until, {}) for batch in _batches(folder, since, until, list(RANKS))]
    if tables:
        rows = pa.concat_tables(tables).sort_by("time")
        taken = dict(zip(rows["request_id"].to_pylist(), rows["taken"].to_pylist(), strict=True))
    return taken


def read_rows(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields what there is of some columns of all rows of a folder, raw inputs too, a few thousand at a time in memory.
    Raises as `read_window` does."""
    for batch in _batches(folder, -np.inf, np.inf, list(names)):
        yield from batch.to_pylist()


def _batches(source: Any, since: float, until: float, names: list[str]) -> Iterator[pa.Table]:
    """Yields the columns that there are of `names`, a few thousand rows at a time."""
    if not isinstance(source, Path):
        table = source if isinstance(source, pa.Table) else pa.Table.from_pandas(source, preserve_index=False)
        for start in range(0, table.num_rows, ROWS_AT_ONCE):
            yield _of_schema(table.slice(start, ROWS_AT_ONCE), names, "the table")
        return
    if not source.is_dir():
        raise UsageError(f"{source}: no such folder", "Name a folder of recorded requests.")
    for file in sorted(source.rglob("*.parquet"), key=lambda file: (period(file) or (0.0, 0.0), file)):
        times = period(file)
        if times and (times[1] < since or times[0] >= until):
            continue
        try:
            with pq.ParquetFile(file) as stored:
                there = [name for name in names if name in stored.schema_arrow.names]
                for batch in stored.iter_batches(ROWS_AT_ONCE, columns=there):
                    yield _of_schema(pa.table(batch), names, str(file))
        except FileNotFoundError:  # forgotten since it was listed
            continue
        except pa.ArrowInvalid as error:
            raise DataInvalid(f"{file}: is no Parquet file: {error}", "Move it away.") from error


def _of_schema(table: pa.Table, names: list[str], origin: str) -> pa.Table:
    schema = FEEDBACK if "taken" in names else REQUESTS
    if missing := [name for name in names if name in NEEDED and name not in table.column_names]:
        raise DataInvalid(f"{origin}: has no column {missing[0]!r}", f"A row needs {', '.join(NEEDED)}.")
    there = [name for name in names if name in table.column_names]
    try:
        return table.select(there).cast(pa.schema([schema.field(name) for name in there]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataInvalid(f"{origin}: is not of the schema of recorded requests: {error}",
                          "components/traffic/schema.py says what each column is.") from error  # fmt: skip


def _chosen(table: pa.Table, since: float, until: float, wanted: Mapping[str, str]) -> pa.Table:
    time = table["time"].to_numpy()
    rows = (time >= since) & (time < until)
    for name, value in wanted.items():
        if name not in table.column_names:
            raise UsageError(f"{name}: is not recorded", "Choose by a column that is.")
        rows &= _column(table[name]) == value
    return table.filter(pa.array(rows))


def _newest(
    batches: Iterator[pa.Table], since: float, until: float, wanted: Mapping[str, str], count: int
) -> NDArray[np.float64]:
    times = np.empty(0)
    for batch in batches:
        times = np.concatenate([times, _chosen(batch, since, until, wanted)["time"].to_numpy()])
        if len(times) > count:
            times = np.partition(times, len(times) - count)[len(times) - count :]
    return times


def _sample(rows: pa.Table, keys: NDArray[np.float64], most: int) -> tuple[pa.Table, NDArray[np.float64]]:
    if len(keys) <= most:
        return rows, keys
    smallest = np.sort(np.argpartition(keys, most)[:most])
    return rows.take(smallest), keys[smallest]


def _column(values: pa.ChunkedArray) -> Column:
    if pa.types.is_string(values.type):
        return np.array([value or "" for value in values.to_pylist()], dtype=np.str_)
    return np.asarray(values.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _vectors(column: pa.ChunkedArray) -> Vectors:
    rows = column.combine_chunks()
    lengths = np.asarray(rows.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), int)
    dimensions = np.unique(lengths[lengths > 0])
    if len(dimensions) > 1:
        raise DataInvalid(
            f"the vectors of one window have {' and '.join(map(str, dimensions))} numbers",
            "Choose one model version.",
        )
    found = np.full((len(lengths), int(dimensions.max(initial=0))), np.nan, np.float32)
    if len(dimensions):
        found[lengths > 0] = rows.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimensions[0])
    return found

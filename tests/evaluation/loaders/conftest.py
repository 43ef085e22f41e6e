"""Small mirrors of the published repositories, written as the hub has them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.corpus import Query
from components.evaluation.benchmark import Source, Task, read_benchmark
from components.evaluation.loaders import LOADERS

Row = dict[str, Any]
V2 = read_benchmark("mmeb-v2").tasks


def image_bytes(shade: int, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(content, kind)
    return content.getvalue()


def write_image(file: Path, shade: int = 0) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(image_bytes(shade, "PNG" if file.suffix == ".png" else "JPEG"))
    return file


def write_frames(folder: Path, count: int = 3) -> tuple[Path, ...]:
    """Writes frames 0.jpg, 1.jpg, ... and returns them."""
    return tuple(write_image(folder / f"{number}.jpg", number) for number in range(count))


def write_parquet(file: Path, rows: Sequence[Row], schema: pa.Schema | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema), file)
    return file


def write_lines(file: Path, rows: Iterable[Row]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return file


def cut_short(file: Path) -> None:
    """Loses the end of a file, as an interrupted copy does."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


def contents(folder: Path) -> set[Path]:
    """Returns all that lies below a folder but the files that processes lock."""
    return {path for path in folder.rglob("*") if path.suffix != ".lock"}


def task(name: str, queries: int, candidates: int | None = None, **changes: Any) -> Task:
    """Returns the task of a set of MMEB v2 with the size of the fixture."""
    return V2[name].model_copy(update={"queries": queries, "candidates": candidates, **changes})


def source(repository: str, configuration: str | None = None, split: str = "test") -> Source:
    return Source(repository=repository, configuration=configuration, split=split, revision="main")


def load(name: str, mirror: Path, queries: int, candidates: int | None = None, **changes: Any) -> list[Query]:
    of_fixture = task(name, queries, candidates, **changes)
    return list(LOADERS[of_fixture.layout](name, of_fixture, mirror))


def texts(query: Query) -> list[str | None]:
    return [candidate.text for candidate in query.candidates]


def write_corpus(
    repository: Path, pages: Mapping[Any, bytes], queries: Mapping[Any, str], qrels: Sequence[tuple[Any, Any, int]],
    split: str = "test",
) -> None:  # fmt: skip
    """Writes the three tables of a set in BEIR's form, the corpus in two shards, as the hub names them."""
    rows = [{"corpus-id": page, "image": {"bytes": content, "path": None}} for page, content in pages.items()]
    for number, shard in enumerate((rows[:2], rows[2:])):
        image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        schema = pa.schema({"corpus-id": pa.array(list(pages)).type, "image": image})
        write_parquet(repository / "corpus" / f"{split}-{number:05}-of-00002.parquet", shard, schema)
    shard_name = f"{split}-00000-of-00001.parquet"
    asked = [{"query-id": query, "query": text, "language": "english"} for query, text in queries.items()]
    write_parquet(repository / "queries" / shard_name, asked)
    judged = [{"query-id": query, "corpus-id": page, "score": grade} for query, page, grade in qrels]
    write_parquet(repository / "qrels" / shard_name, judged)

"""Whatever reads a row in MMEB's columns, reads the same items in it, or refuses the same cells."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.corpus import EVAL_SCHEMA, TRAIN_SCHEMA, Item, ingest, read_pairs, read_queries
from components.corpus.config import SOURCES, SourceSettings
from components.corpus.layout import write_rows
from components.errors import DataInvalid
from components.evaluation import read_suite
from components.evaluation.benchmark import Source
from components.evaluation.loaders import image_set
from components.evaluation.sets import Collection
from components.validation.measure import measure
from tests.evaluation.conftest import task, write_data

Row = dict[str, Any]
Route = Callable[[Path, Row, bytes], list[Item]]
"""Returns query, first candidate and relevant candidate of the row that is written below a folder, image paths made
relative to it; the bytes are those of the image."""
IMAGE = "a.png"
EVALUATION = {
    "qry_inst": None, "qry_text": None, "qry_img_path": IMAGE, "tgt_inst": None,
    "tgt_text": [None, "right"], "tgt_img_path": [IMAGE, None], "label": [1],
}  # fmt: skip
CELLS = ["", None, " ", "\n", "\u00a0\u3000", "\x1f", "<|image_1|>", "<|image_1|>\n cat \n", " a  cat", "a<|image_1|>b"]


def relative(items: list[Item], images: Path) -> list[Item]:
    return [
        Item(item.text, item.image and Path(str(item.image)).relative_to(images), instruction=item.instruction)
        for item in items
    ]


def with_image(images: Path, image: bytes) -> None:
    images.mkdir(parents=True)
    (images / IMAGE).write_bytes(image)


def from_layout(folder: Path, row: Row, image: bytes) -> list[Item]:
    write_rows(folder / "eval" / "t.parquet", EVAL_SCHEMA, [row])
    (query,) = read_queries(folder, "eval", "t")
    (right,) = query.relevant
    return relative([query.item, query.candidates[0], query.candidates[right]], folder / "images")


def of_sets(collected: Any, items: tuple[Item, ...], images: Path, first: Item) -> list[Item]:
    (pool,) = collected.pools
    (truth,) = (items[pool.candidates[place]] for _, place in pool.relevant)
    (other,) = {items[position] for position in pool.candidates} - {truth}
    return relative([items[collected.queries[0]], other, truth], images)


def from_suite(folder: Path, row: Row, image: bytes) -> list[Item]:
    with_image(folder / "images", image)
    suite = read_suite(write_data(folder, {"t": [row]}))
    return of_sets(suite.sets[0], suite.items, folder / "images", suite.items[0])


def from_mirror(folder: Path, row: Row, image: bytes) -> list[Item]:
    with_image(folder / "images", image)
    (folder / "t").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), folder / "t" / "test.parquet")
    source = Source(repository="owner/none", configuration="t", split="test", revision="main")
    published = task("retrieval", "IND", queries=1, candidates=2, layout="mmeb-instruct", source=source)
    found = image_set("t", published, folder)
    collection = Collection("")
    collected = collection.from_parquet("t", published, found.files, found.images)
    return of_sets(collected, tuple(collection.positions), found.images, next(iter(collection.positions)))


def ingested(folder: Path, file: str, row: Row, image: bytes) -> Path:
    with_image(folder / "source" / "images", image)
    (folder / "source" / file).parent.mkdir()
    if file.endswith(".jsonl"):
        (folder / "source" / file).write_text(json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), folder / "source" / file)
    config = SOURCES.validate({"source": "mmeb", "name": "t", "location": str(folder / "source")})
    assert isinstance(config, SourceSettings)
    ingest(config, folder / "data")
    return folder / "data"


def from_ingested(folder: Path, row: Row, image: bytes, file: str = "eval/t.parquet") -> list[Item]:
    data = ingested(folder, file, row, image)
    (query,) = read_queries(data, "eval", "t")
    (right,) = query.relevant
    return relative([query.item, query.candidates[0], query.candidates[right]], data / "images")


def from_ingested_lines(folder: Path, row: Row, image: bytes) -> list[Item]:
    return from_ingested(folder, row, image, "eval/t.jsonl")


def training(row: Row, candidate: int) -> Row:
    """Returns the training row with the query of an evaluation row and one of its candidates."""
    return {
        "qry_inst": row["qry_inst"], "qry": row["qry_text"], "qry_image_path": row["qry_img_path"],
        "pos_inst": row["tgt_inst"], "pos_text": row["tgt_text"][candidate],
        "pos_image_path": row["tgt_img_path"][candidate], "neg_text": row["tgt_text"][1 - candidate],
        "neg_image_path": row["tgt_img_path"][1 - candidate],
    }  # fmt: skip


def from_training(folder: Path, row: Row, image: bytes) -> list[Item]:
    write_rows(folder / "train" / "t.parquet", TRAIN_SCHEMA, [training(row, 0), training(row, 1)])
    pair, other = read_pairs(folder)
    assert pair.query == other.query and pair.negatives == (other.positive,)
    return relative([pair.query, pair.positive, other.positive], folder / "images")


def from_ingested_training(folder: Path, row: Row, image: bytes) -> list[Item]:
    data = ingested(folder, "train/t.parquet", training(row, 0), image)
    (pair,) = read_pairs(data)
    return relative([pair.query, pair.positive, *pair.negatives], data / "images")


ROUTES = [
    from_layout, from_suite, from_mirror, from_ingested, from_ingested_lines, from_training, from_ingested_training,
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_beside_an_image_gives_the_same_item_on_every_route(
    tmp_path: Path, make_image: Callable[[], bytes], route: Route, cell: str | None
) -> None:
    row = EVALUATION | {"qry_text": cell, "qry_inst": cell, "tgt_inst": cell, "tgt_text": [cell, "right"]}
    text = {"<|image_1|>\n cat \n": "cat", " a  cat": "a  cat", "a<|image_1|>b": "ab"}.get(cell or "")
    item = Item(text, Path(IMAGE), instruction=text)
    assert route(tmp_path / "route", row, make_image()) == [item, item, Item("right", instruction=text)]


BLANKS: dict[str, Row] = {
    "query": {"qry_img_path": "", "tgt_img_path": [IMAGE, ""]},
    "candidate": {"tgt_img_path": ["", None]},
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("side", BLANKS)
@pytest.mark.parametrize("cell", ["", None, " ", "\u00a0\u3000", "<|image_1|> \n"])
def test_a_side_with_neither_text_nor_image_is_refused_on_every_route(
    tmp_path: Path, make_image: Callable[[], bytes], route: Route, side: str, cell: str | None
) -> None:
    row = EVALUATION | {"qry_text": cell, "tgt_text": [cell, "right"]} | BLANKS[side]
    with pytest.raises(DataInvalid, match=r"neither text nor image|1 no content"):
        route(tmp_path / "route", row, make_image())


@pytest.mark.parametrize("side", BLANKS)
@pytest.mark.parametrize(("cell", "empty"), [(" ", 1), ("<|image_1|>", 1), (None, 1), ("cat", 0)])
def test_validation_counts_the_sides_that_readers_refuse(
    tmp_path: Path, make_image: Callable[[], bytes], side: str, cell: str | None, empty: int
) -> None:
    with_image(tmp_path / "images", make_image())
    row = EVALUATION | {"qry_text": cell, "tgt_text": [cell, "right"]} | BLANKS[side]
    assert measure(write_data(tmp_path, {"t": [row]})).tasks.empty_sides.tolist() == [empty]


@pytest.mark.parametrize("route", [from_layout, from_mirror, from_ingested, from_ingested_lines])
def test_a_null_instead_of_the_texts_of_candidates_is_refused_on_every_route(
    tmp_path: Path, make_image: Callable[[], bytes], route: Route
) -> None:
    row = EVALUATION | {"tgt_text": None, "tgt_img_path": [IMAGE, IMAGE]}
    with pytest.raises(DataInvalid):
        route(tmp_path / "route", row, make_image())

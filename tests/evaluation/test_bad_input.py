"""Attacks on a data set before its evaluation: each ends in a refusal that names set, row and file."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.corpus import Item
from components.corpus.layout import write_rows
from components.corpus.rows import EVAL_SCHEMA
from components.embedder import Vectors
from components.embedder.runtime import load_image
from components.errors import DataInvalid, EmbedlineError
from components.evaluation import evaluate, read_suite
from components.evaluation.sets import Collection
from components.scores import Scores
from tests.evaluation.conftest import CONFIG, MODEL, HashEmbedder, row, task, vouch, write_data

Attack = Callable[[Path], object]


class SeeingEmbedder(HashEmbedder):
    """Decodes the images of its items, as a model does."""

    def encode(self, items: Sequence[Item]) -> Vectors:
        for item in items:
            if item.image:
                load_image(item.image)
        return super().encode(items)


def score(data: Path) -> Scores:
    suite = read_suite(data)
    return evaluate(SeeingEmbedder(), MODEL, suite, CONFIG, data.parent / "cache", lambda _: None)


def file_of(data: Path, name: str) -> Path:
    return data / "eval" / f"{name}.parquet"


def edited(data: Path, name: str, number: int, **changes: Any) -> None:
    """Changes one row of a set."""
    rows = pq.read_table(file_of(data, name)).to_pylist()
    rows[number] |= changes
    write_rows(file_of(data, name), EVAL_SCHEMA, rows)


def retyped(data: Path, name: str, column: str, values: pa.Array) -> None:
    table = pq.read_table(file_of(data, name))
    pq.write_table(table.set_column(table.column_names.index(column), column, values), file_of(data, name))


def without(data: Path, name: str, column: str) -> None:
    pq.write_table(pq.read_table(file_of(data, name)).drop_columns([column]), file_of(data, name))


def broken_in_the_middle(file: Path, group: int, column: str) -> None:
    """Overwrites the pages of one column of a row group; the file's footer stays whole."""
    metadata = pq.read_metadata(file).row_group(group)
    chunk = next(found for found in map(metadata.column, range(metadata.num_columns)) if found.path_in_schema == column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(content)


def cut(image: Path) -> None:
    """Loses the end of an image, whose head still says its size."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(image)
    image.write_bytes(image.read_bytes()[:6000])


ATTACKS: dict[str, tuple[Attack, str]] = {
    **{
        f"without {column}": (
            lambda data, column=column: without(data, "Groups", column),
            rf"^Groups: .*Groups.parquet: is no evaluation set: there is no column '{column}', only .*label",
        )
        for column in ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
    },
    "an absolute image path of a query": (
        lambda data: edited(data, "Groups", 5, qry_img_path="/etc/hostname"),
        r"^Groups: .*Groups.parquet: row 5: unsafe path: /etc/hostname",
    ),
    "an image path of a candidate that leads out": (
        lambda data: edited(data, "Names", 64, tgt_img_path=[*(f"{n}.png" for n in range(11)), "../manifest.json"]),
        r"^Names: .*Names.parquet: row 64: unsafe path: \.\./manifest.json",
    ),
    "a deleted image of a query": (
        lambda data: (data / "images/7.png").unlink(),
        r"^Groups: .*Groups.parquet: row 7: missing image: .*images/7.png",
    ),
    "a deleted image of a candidate": (
        lambda data: edited(data, "Names", 3, tgt_img_path=[*(f"{n}.png" for n in range(11)), "gone.png"]),
        r"^Names: .*Names.parquet: row 3: missing image: .*images/gone.png",
    ),
    "an image that is cut short": (
        lambda data: cut(data / "images/9.png"),
        r"^Groups: query of row 9: .*images/9.png: the image cannot be decoded",
    ),
    "a null among the labels": (
        lambda data: edited(data, "Keywords", 66, label=[1, None]),
        r"^Keywords: .*Keywords.parquet: row 66: a label is null",
    ),
    "labels that are texts": (
        lambda data: retyped(data, "Own", "label", pa.array([["0"]] * 40)),
        r"^Own: .*Own.parquet: is no evaluation set: the column 'label' holds list<.*string>, not list<.*int32>",
    ),
    "labels without a list": (
        lambda data: retyped(data, "Own", "label", pa.array([0] * 40)),
        r"^Own: .*Own.parquet: is no evaluation set: the column 'label' holds int64",
    ),
    "numbers for texts": (
        lambda data: retyped(data, "Own", "qry_text", pa.array(range(40))),
        r"^Own: .*Own.parquet: is no evaluation set: the column 'qry_text' holds int64, not string",
    ),
    "no lists of candidates": (
        lambda data: [retyped(data, "Own", name, pa.array([""] * 40)) for name in ("tgt_text", "tgt_img_path")],
        r"^Own: .*Own.parquet: is no evaluation set: neither of tgt_text, tgt_img_path holds lists",
    ),
    "uneven lists of candidates": (
        lambda data: edited(data, "Keywords", 65, tgt_img_path=[""] * 29),
        r"^Keywords: .*Keywords.parquet: row 65: has not as many texts as image paths",
    ),
    "no candidates": (
        lambda data: edited(data, "Own", 12, tgt_text=None, tgt_img_path=None),
        r"^Own: .*Own.parquet: row 12: label 0 of 0 candidates",
    ),
    "a null candidate": (
        lambda data: edited(data, "Own", 13, tgt_text=[*"abcdefghijklmnopqrs", None]),
        r"^Own: .*Own.parquet: row 13: a candidate has neither text nor image",
    ),
    "an empty query": (
        lambda data: edited(data, "Own", 14, qry_text=None),
        r"^Own: .*Own.parquet: row 14: the query has neither text nor image",
    ),
    "a label past the candidates": (
        lambda data: edited(data, "Keywords", 69, label=[30]),
        r"^Keywords: .*Keywords.parquet: row 69: label 30 of 30 candidates",
    ),
    "a broken page of candidates in the middle": (
        lambda data: broken_in_the_middle(file_of(data, "Keywords"), 1, "tgt_text.list.element"),
        r"^Keywords: .*Keywords.parquet: is no evaluation set: row group 1: ",
    ),
    "no rows": (
        lambda data: pq.write_table(pa.Table.from_pylist([], EVAL_SCHEMA), file_of(data, "Own")),
        r"^Own: .*Own.parquet: 0 rows with up to 0 candidates; there should be 40",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "refusal"), ATTACKS.values(), ids=ATTACKS)
def test_bad_input_is_refused_where_it_is(data: Path, attack: Attack, refusal: str) -> None:
    attack(data)
    vouch(data)
    with pytest.raises(DataInvalid) as refused:
        score(data)
    assert re.search(refusal, refused.value.problem), refused.value.problem


def test_the_same_data_untouched_are_scored(data: Path) -> None:
    assert len(score(data).tasks) == 4


def test_an_embedder_that_fails_over_whole_images_is_named_as_it_is(data: Path) -> None:
    class Failing(HashEmbedder):
        def encode(self, items: Sequence[Item]) -> Vectors:
            raise EmbedlineError("no such model")

    with pytest.raises(EmbedlineError, match=r"^no such model$"):
        evaluate(Failing(), MODEL, read_suite(data), CONFIG, data.parent / "cache", lambda _: None)


def test_the_row_of_a_second_file_is_named_with_that_file(tmp_path: Path) -> None:
    files = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    write_rows(files[0], EVAL_SCHEMA, [row("q", ["a", "b"], [0])] * 70)
    write_rows(files[1], EVAL_SCHEMA, [*[row("q", ["a", "b"], [0])] * 68, row("q", ["a", "b"], [2])])
    two = task("retrieval", None, queries=139, candidates=2)
    with pytest.raises(DataInvalid, match=r"^Set: .*1.parquet: row 68: label 2 of 2 candidates"):
        Collection("").from_parquet("Set", two, files, tmp_path)


def test_a_manifest_of_a_set_without_rows_is_refused(data: Path) -> None:
    manifest = data / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"rows": 40', '"rows": 0'))
    with pytest.raises(DataInvalid, match=r"(?s)manifest.json is no manifest: .*tasks.eval.Own.rows.* greater than 0"):
        read_suite(data)


LARGE = {
    "qry_text": pa.large_string(), "qry_img_path": pa.dictionary(pa.int32(), pa.string()),
    "qry_inst": pa.dictionary(pa.int8(), pa.string()), "tgt_inst": pa.large_string(),
    "tgt_text": pa.large_list(pa.large_string()), "tgt_img_path": pa.large_list(pa.string()),
    "label": pa.large_list(pa.int64()),
}  # fmt: skip


@pytest.mark.parametrize("columns", [LARGE, {"tgt_text": pa.list_(pa.dictionary(pa.int32(), pa.string()))}])
def test_every_width_of_a_type_is_read_alike(data: Path, columns: dict[str, pa.DataType]) -> None:
    before = score(data)
    for file in (data / "eval").glob("*.parquet"):
        table = pq.read_table(file)
        fields = [pa.field(name, columns.get(name, table.schema.field(name).type)) for name in table.column_names]
        pq.write_table(pa.Table.from_pylist(table.to_pylist(), pa.schema(fields)), file, row_group_size=64)
        read = pq.read_schema(file)
        assert {name: str(read.field(name).type).replace("element:", "item:") for name in columns} == {
            name: str(kind) for name, kind in columns.items()
        }
    vouch(data)
    assert score(data).tasks == before.tasks


def test_columns_of_nothing_but_nulls_are_empty(tmp_path: Path) -> None:
    words = [row(f"query {word}", [*"abc"], None, qry_img_path=None, qry_inst=None, tgt_inst=None) for word in "xyz"]
    data = write_data(tmp_path / "data", {"Set": words})
    before = score(data)
    pq.write_table(pa.Table.from_pylist(words), file_of(data, "Set"))
    assert pa.null() in pq.read_schema(file_of(data, "Set")).types
    vouch(data)
    assert score(data).tasks == before.tasks

"""What is written in MMEB's columns comes back as pairs and queries."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.corpus import EVAL_SCHEMA, TRAIN_SCHEMA, Item, Pair, read_pairs, read_queries, task_names
from components.corpus.layout import RowWriter, write_rows, write_table
from components.corpus.rows import negatives, plain
from components.errors import DataInvalid, UsageError

TRAIN_ROW = {
    "qry_inst": "Find an image.",
    "qry": "cat",
    "qry_image_path": "",
    "pos_inst": "Represent the image.",
    "pos_text": "",
    "pos_image_path": "animals/cat.png",
    "neg_text": "",
    "neg_image_path": "animals/dog.png",
}
EVAL_ROW = {
    "qry_inst": "Find an image.",
    "qry_text": "cat",
    "qry_img_path": "",
    "tgt_inst": "",
    "tgt_text": ["", "", ""],
    "tgt_img_path": ["a.png", "b.png", "c.png"],
    "label": [2],
}


def test_a_pair_comes_back_with_instructions_and_image_paths(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "train" / "animals.parquet", TRAIN_SCHEMA, [TRAIN_ROW]) == 1
    images = tmp_path / "images"
    assert list(read_pairs(tmp_path)) == [
        Pair(
            Item("cat", instruction="Find an image."),
            Item(image=images / "animals/cat.png", instruction="Represent the image."),
            (Item(image=images / "animals/dog.png", instruction="Represent the image."),),
        )
    ]


def test_all_tasks_are_read_in_the_order_of_their_names_and_one_alone_when_asked(tmp_path: Path) -> None:
    for task in ("second", "first"):
        write_rows(tmp_path / "train" / f"{task}.parquet", TRAIN_SCHEMA, [TRAIN_ROW | {"qry": task}])
    assert [pair.query.text for pair in read_pairs(tmp_path)] == ["first", "second"]
    assert [pair.query.text for pair in read_pairs(tmp_path, "second")] == ["second"]
    assert task_names(tmp_path, "train") == ["first", "second"]


def test_a_query_comes_back_with_candidates_in_order_and_its_label(tmp_path: Path) -> None:
    write_rows(tmp_path / "eval" / "animals.parquet", EVAL_SCHEMA, [EVAL_ROW])
    (query,) = read_queries(tmp_path, "eval", "animals")
    assert query.item == Item("cat", instruction="Find an image.")
    assert [item.image for item in query.candidates] == [
        tmp_path / "images" / name for name in ("a.png", "b.png", "c.png")
    ]
    assert query.relevant == {2: 1.0}


def test_mmeb_v1_rows_have_no_instruction_one_string_for_all_texts_and_the_truth_first(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "qry_text": "<|image_1|>\nRepresent the given image with the following question: What is it?\n",
        "qry_img_path": "q.png",
        "tgt_text": "",
        "tgt_img_path": ["a.png", "b.png"],
    }
    (tmp_path / "eval").mkdir()
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "eval" / "OK-VQA.parquet")
    (query,) = read_queries(tmp_path, "eval", "OK-VQA")
    assert query.item.text == "Represent the given image with the following question: What is it?"
    assert query.item.instruction is None
    assert [item.text for item in query.candidates] == [None, None]
    assert query.relevant == {0: 1.0}


@pytest.mark.parametrize(
    ("written", "text"),
    [(" cat \n", "cat"), ("<|image_1|>\ncat", "cat"), ("a  cat", "a  cat"), ("<|image_1|> ", None), (" ", None)],
)
def test_every_reader_takes_texts_without_image_token_and_outer_white_space(
    tmp_path: Path, written: str, text: str | None
) -> None:
    path = {"qry_image_path": "a.png", "qry_inst": written}
    write_rows(tmp_path / "train" / "t.parquet", TRAIN_SCHEMA, [TRAIN_ROW | path | {"qry": written}])
    row = {"qry_inst": written, "qry_text": written, "qry_img_path": "a.png"}
    write_rows(tmp_path / "eval" / "t.parquet", EVAL_SCHEMA, [EVAL_ROW | row])
    (pair,), (query,) = read_pairs(tmp_path), read_queries(tmp_path, "eval", "t")
    item = Item(text, tmp_path / "images" / "a.png", instruction=text)
    assert pair.query == query.item == plain(Item(written, item.image, instruction=written)) == item


@pytest.mark.parametrize(
    ("text", "path", "expected"),
    [
        ("", "", []),
        (None, None, []),
        ("dog", "", [("dog", "")]),
        ("['dog', \"cow's\"]", "['', '']", [("dog", ""), ("cow's", "")]),
        ("", "['a.png', 'b.png']", [("", "a.png"), ("", "b.png")]),
        ("['dog', '']", "", [("dog", "")]),
        ("[see page 3]", "", [("[see page 3]", "")]),
        ("[__import__('os').getcwd()]", "", [("[__import__('os').getcwd()]", "")]),
        ("[1, 2]", "", [("[1, 2]", "")]),
    ],
)
def test_negatives_are_none_one_or_a_list_written_out_and_never_code(
    text: str | None, path: str | None, expected: list[tuple[str, str]]
) -> None:
    assert negatives(text, path) == expected


def test_a_table_and_its_rows_make_the_same_file(tmp_path: Path) -> None:
    rows = [EVAL_ROW | {"qry_text": str(number)} for number in range(150)]
    write_rows(tmp_path / "rows.parquet", EVAL_SCHEMA, rows)
    write_table(tmp_path / "table.parquet", EVAL_SCHEMA, pa.Table.from_pylist(rows, EVAL_SCHEMA))
    assert (tmp_path / "rows.parquet").read_bytes() == (tmp_path / "table.parquet").read_bytes()


def test_a_table_without_optional_columns_is_written_without_them(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([EVAL_ROW], EVAL_SCHEMA).drop_columns(["label", "qry_inst"])
    write_table(tmp_path / "eval" / "t.parquet", EVAL_SCHEMA, table)
    assert "label" not in pq.read_schema(tmp_path / "eval" / "t.parquet").names
    (query,) = read_queries(tmp_path, "eval", "t")
    assert query.relevant == {0: 1.0}


def test_a_table_that_lacks_a_needed_column_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([EVAL_ROW], EVAL_SCHEMA).drop_columns(["tgt_text"])
    with pytest.raises(KeyError, match="tgt_text"):
        write_table(tmp_path / "t.parquet", EVAL_SCHEMA, table)


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), RowWriter(tmp_path / "t.parquet", TRAIN_SCHEMA) as writer:
        for _ in range(5000):
            writer.add(TRAIN_ROW)
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


TRAINING = ("train", TRAIN_SCHEMA, TRAIN_ROW)
EVALUATION = ("eval", EVAL_SCHEMA, EVAL_ROW)


@pytest.mark.parametrize(
    ("kind", "changes", "problem"),
    [
        (TRAINING, {"qry_image_path": "/etc/hostname"}, "unsafe path: /etc/hostname"),
        (TRAINING, {"pos_image_path": "animals/../../b.png"}, "unsafe path"),
        (TRAINING, {"neg_image_path": "['a.png', '../b.png']"}, "unsafe path: ../b.png"),
        (TRAINING, {"neg_text": "['a', 'b']", "neg_image_path": "['a.png']"}, "zip"),
        (EVALUATION, {"qry_img_path": "../b.png"}, "unsafe path: ../b.png"),
        (EVALUATION, {"tgt_img_path": ["a.png", "/b.png", "c.png"]}, "unsafe path: /b.png"),
        (EVALUATION, {"tgt_img_path": ["a.png"]}, "zip"),
        (EVALUATION, {"tgt_text": None}, "NoneType"),
        (EVALUATION, {"label": [0, None]}, "label None of 3 candidates"),
        (EVALUATION, {"label": [3]}, "label 3 of 3 candidates"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(
    tmp_path: Path, kind: tuple[Any, pa.Schema, dict[str, Any]], changes: dict[str, Any], problem: str
) -> None:
    split, schema, row = kind
    write_rows(tmp_path / split / "t.parquet", schema, [row, row, row | changes])
    reader = read_pairs(tmp_path) if split == "train" else read_queries(tmp_path, "eval", "t")
    assert next(reader) and next(reader), "the rows before it are good"
    with pytest.raises(DataInvalid, match=f"t.parquet: row 2: cannot be used: .*{problem}"):
        next(reader)


@pytest.mark.parametrize("column", ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"])
def test_a_column_that_is_missing_is_named_beside_those_that_are_there(tmp_path: Path, column: str) -> None:
    (tmp_path / "eval").mkdir()
    file = tmp_path / "eval" / "t.parquet"
    pq.write_table(pa.Table.from_pylist([EVAL_ROW], EVAL_SCHEMA).drop_columns([column]), file)
    with pytest.raises(DataInvalid, match=f"{file}: there is no column '{column}', only qry_inst, .*label"):
        next(read_queries(tmp_path, "eval", "t"))


def test_a_page_that_is_broken_is_named_with_its_row_group(tmp_path: Path) -> None:
    file = tmp_path / "eval" / "t.parquet"
    write_rows(file, EVAL_SCHEMA, [EVAL_ROW] * 70)
    chunk = pq.read_metadata(file).row_group(1).column(1)
    content = bytearray(file.read_bytes())
    start = chunk.dictionary_page_offset
    content[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    file.write_bytes(content)
    reader = read_queries(tmp_path, "eval", "t")
    assert len([next(reader) for _ in range(64)]) == 64
    with pytest.raises(DataInvalid, match=f"{file}: row 64: cannot be read, the file is broken: row group 1: "):
        next(reader)


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "t.parquet", TRAIN_SCHEMA, []) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path) -> None:
    write_rows(tmp_path / "eval" / "animals.parquet", EVAL_SCHEMA, [EVAL_ROW])
    with pytest.raises(UsageError, match="plants") as caught:
        list(read_queries(tmp_path, "eval", "plants"))
    assert "animals" in caught.value.remedy

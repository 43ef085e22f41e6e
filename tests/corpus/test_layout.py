"""What is written in MMEB's columns comes back as pairs and queries."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.corpus import EVAL_SCHEMA, TRAIN_SCHEMA, Item, Pair, read_pairs, read_queries, task_names
from components.corpus.layout import RowWriter, negatives, write_rows, write_table
from components.errors import UsedWrongly

TRAIN_ROW = {
    "qry_inst": "Find a picture.",
    "qry": "cat",
    "qry_image_path": "",
    "pos_inst": "Represent the picture.",
    "pos_text": "",
    "pos_image_path": "animals/cat.png",
    "neg_text": "",
    "neg_image_path": "animals/dog.png",
}
EVAL_ROW = {
    "qry_inst": "Find a picture.",
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
            Item("cat", instruction="Find a picture."),
            Item(image=images / "animals/cat.png", instruction="Represent the picture."),
            (Item(image=images / "animals/dog.png", instruction="Represent the picture."),),
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
    assert query.item == Item("cat", instruction="Find a picture.")
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


def test_only_texts_with_the_image_token_are_stripped(tmp_path: Path) -> None:
    rows = [TRAIN_ROW | {"qry": " kept \n"}, TRAIN_ROW | {"qry": "<|image_1|> ", "qry_image_path": "a.png"}]
    write_rows(tmp_path / "train" / "t.parquet", TRAIN_SCHEMA, rows)
    assert [pair.query.text for pair in read_pairs(tmp_path)] == [" kept \n", None]


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


def test_no_rows_make_no_file(tmp_path: Path) -> None:
    assert write_rows(tmp_path / "t.parquet", TRAIN_SCHEMA, []) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_task_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path) -> None:
    write_rows(tmp_path / "eval" / "animals.parquet", EVAL_SCHEMA, [EVAL_ROW])
    with pytest.raises(UsedWrongly, match="plants") as caught:
        list(read_queries(tmp_path, "eval", "plants"))
    assert "animals" in caught.value.remedy

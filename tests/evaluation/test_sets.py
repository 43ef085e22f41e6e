from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.corpus import Item, Query, read_queries
from components.errors import DataInvalid, EmbedlineError
from components.evaluation import read_suite
from components.evaluation.sets import Collection
from tests.evaluation.conftest import row, task, vouch, write_data


def test_every_row_is_read_as_the_plain_reader_reads_it(data: Path) -> None:
    suite = read_suite(data)
    assert len(set(suite.items)) == len(suite.items), "an item occurs twice"
    for questions in suite.sets:
        queries = list(read_queries(data, "eval", questions.name))
        assert [suite.items[position] for position in questions.queries] == [query.item for query in queries]
        seen = []
        for pool in questions.pools:
            candidates = [suite.items[position] for position in pool.candidates]
            for place, number in enumerate(pool.rows):
                query = queries[number]
                assert sorted(map(repr, candidates)) == sorted(map(repr, query.candidates))
                relevant = [candidates[column] for index, column in pool.relevant if index == place]
                assert sorted(map(repr, relevant)) == sorted(repr(query.candidates[label]) for label in query.relevant)
                seen.append(int(number))
        assert sorted(seen) == list(range(len(queries)))


def test_rows_with_the_same_candidates_in_any_order_are_one_pool(tmp_path: Path) -> None:
    words = ["a", "b", "c", "d"]
    lists = [words, words[::-1], ["b", "a", "d", "c"], ["b", "a"]]
    rows = [row(f"query {number}", candidates, [0]) for number, candidates in enumerate(lists)]
    suite = read_suite(write_data(tmp_path, {"Set": rows}))
    shared, own = suite.sets[0].pools
    assert shared.rows.tolist() == [0, 1, 2] and own.rows.tolist() == [3]
    truths = [[suite.items[pool.candidates[column]].text for _, column in pool.relevant] for pool in (shared, own)]
    assert truths == [["a", "d", "b"], ["b"]]


def test_a_candidate_that_is_listed_twice_is_one_as_relevant_as_its_most_relevant_copy(tmp_path: Path) -> None:
    rows = [row("q", ["a", "b", "a", " b\n"], labels) for labels in ([0], [0, 2, 2], [2], [3])]
    (pool,) = (suite := read_suite(write_data(tmp_path, {"Set": rows}))).sets[0].pools
    assert sorted(suite.items[position].text or "" for position in pool.candidates) == ["a", "b"]
    truths = [(place, suite.items[pool.candidates[column]].text) for place, column in pool.relevant.tolist()]
    assert truths == [(0, "a"), (1, "a"), (2, "a"), (3, "b")]


def test_the_grade_of_copies_is_the_highest(tmp_path: Path) -> None:
    items = tuple(Item(text) for text in "aabb")
    asked = [Query(Item("q"), items, {0: 1.0, 1: 3.0, 2: 2.0, 3: 0.0})]
    (pool,) = Collection("").from_queries("Set", task("retrieval", None, queries=1, candidates=4), asked).pools
    assert pool.candidates.tolist() == [1, 2] and pool.relevant.tolist() == [[0, 0], [0, 1]]
    assert pool.grades.tolist() == [3.0, 2.0]


@pytest.mark.parametrize(("merged", "candidates"), [(True, 2), (False, 3)])
def test_copies_stay_apart_where_a_suite_wants_them_tied(merged: bool, candidates: int) -> None:
    asked = [Query(Item("q"), tuple(map(Item, "aab")), {0: 1.0})]
    found = Collection("", merged=merged).from_queries("Set", task("vqa", None, queries=1, candidates=3), asked)
    assert len(found.pools[0].candidates) == candidates


def test_files_without_the_optional_columns_follow_mmebs_convention(tmp_path: Path) -> None:
    data = write_data(tmp_path, {"Set": [row("q", ["a", "b"], [1])]})
    file = data / "eval" / "Set.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["label", "qry_inst", "tgt_inst"]), file)
    vouch(data)
    suite = read_suite(data)
    (pool,) = suite.sets[0].pools
    assert [suite.items[pool.candidates[column]].text for _, column in pool.relevant] == ["a"]
    assert {item.instruction for item in suite.items} == {None}


def test_a_set_that_is_missing_or_extra_is_named(data: Path) -> None:
    (data / "eval" / "Own.parquet").rename(data / "eval" / "Others.parquet")
    with pytest.raises(EmbedlineError, match="Own: is missing; Others: is no evaluation set of"):
        read_suite(data)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row("q", ["a", "b"], [2])], "row 0: label 2 of 2 candidates"),
        ([row("q", ["a", "b"], [1]), row("q", ["a", "b"], [-1])], "row 1: label -1 of 2"),
        ([row("q", ["a", "b"], [])], "row 0: no candidate is relevant"),
        ([row("", ["a", "b"], [0])], "neither text nor image"),
        ([row("q", ["a", ""], [0])], "neither text nor image"),
        ([row("q", ["a", "b"], [0], tgt_img_path=[""])], "not as many texts as image paths"),
    ],
)
def test_rows_that_cannot_be_scored_are_refused(tmp_path: Path, rows: list[dict[str, object]], problem: str) -> None:
    with pytest.raises(DataInvalid, match=problem):
        read_suite(write_data(tmp_path, {"Set": rows}))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:-100]), "is no evaluation set"),
        (lambda file: pq.write_table(pq.read_table(file).slice(1), file), "39 rows .* there should be 40"),
        (lambda file: pq.write_table(pq.read_table(file).drop_columns(["tgt_text"]), file), "is no evaluation set"),
    ],
)
def test_a_file_that_is_not_what_the_manifest_says_is_refused(
    data: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    spoil(data / "eval" / "Own.parquet")
    with pytest.raises(DataInvalid, match=problem):
        read_suite(data)


def test_prompts_change_with_an_instruction_and_with_nothing_else(tmp_path: Path) -> None:
    def prompts(name: str, query: str, **instructions: str) -> str:
        return read_suite(write_data(tmp_path / name, {"Set": [row(query, ["a", "b"], [0], **instructions)]})).prompts

    first = prompts("first", "q", qry_inst="Find:")
    assert prompts("other query", "r", qry_inst="Find:") == first
    assert prompts("other query instruction", "q", qry_inst="Seek:") != first
    assert prompts("other candidate instruction", "q", qry_inst="Find:", tgt_inst="A thing.") != first

"""Published benchmarks from a mirror, by a table of their own: one set of every layout that has a way of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import DataInvalid, UsageError
from components.evaluation import benchmark, evaluate, read_benchmark
from components.evaluation.suites import chosen, mirrored_suite
from components.scores import Scores, compare
from tests.evaluation.conftest import CONFIG, MODEL, HashEmbedder
from tests.evaluation.loaders.conftest import write_image, write_parquet

WORDS = ["a lion", "a tiger", "a bear", "a wolf"]
TASK = {
    "modality": "image", "meta_task": "classification", "distribution": "IND", "queries": 3, "candidates": 4,
    "metric": "hit@1", "pool": "local", "layout": "mmeb-eval", "prompt": "mmeb-eval",
}  # fmt: skip
SOURCE = {"repository": "owner/eval", "configuration": None, "split": "test", "revision": "main"}
INSTRUCT = {"layout": "mmeb-instruct", "prompt": "image-cls", "source": SOURCE | {"repository": "owner/instruct"}}


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark `small` of two sets, `Old` in MMEB's first layout and `New` in its second."""
    (tmp_path / "tables").mkdir()
    tasks = {"Old": TASK | {"source": SOURCE}, "New": TASK | INSTRUCT | {"distribution": "OOD"}}
    (tmp_path / "tables" / "small.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    monkeypatch.setattr(benchmark, "TABLES", tmp_path / "tables")
    mirror = tmp_path / "mirror"
    write_set(mirror, "Old", old())
    write_set(mirror, "New", new())
    for number in range(3):
        for repository in ("eval", "instruct"):
            write_image(mirror / "owner" / repository / "images" / "set" / f"{number}.png", 40 * number)
    return mirror


def old(**changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "qry_text": "<|image_1|> Name the animal.\n",
            "qry_img_path": f"set/{number}.png",
            "tgt_text": WORDS[number:] + WORDS[:number],
            "tgt_img_path": [""] * 4,
        }
        | changes
        for number in range(3)
    ]


def new(**changes: Any) -> list[dict[str, Any]]:
    instructions = {"qry_inst": "<|image_1|>Name the animal.", "qry_text": "", "tgt_inst": ""}
    return [row | instructions | changes for row in old()]


def write_set(mirror: Path, name: str, rows: list[dict[str, Any]]) -> None:
    repository = "eval" if name == "Old" else "instruct"
    write_parquet(mirror / "owner" / repository / name / "test-00000-of-00001.parquet", rows)


def test_a_mirror_is_scored_like_any_other_suite(mirror: Path, tmp_path: Path) -> None:
    suite = mirrored_suite("small", mirror)
    scores = evaluate(HashEmbedder(), MODEL, suite, CONFIG, tmp_path / "cache", lambda _: None)
    assert set(scores.tasks) == {"Old", "New"} and scores.benchmark == "small" and scores.missing == []
    assert scores.aggregates["overall"] == (scores.aggregates["IND"] + scores.aggregates["OOD"]) / 2
    truths = {suite.items[pool.candidates[column]].text for pool in suite.sets[0].pools for _, column in pool.relevant}
    assert truths == set(WORDS[:3]), "the first candidate of each row"


def test_text_and_instruction_stay_apart_or_become_the_prompt_of_a_backbone(mirror: Path) -> None:
    def queries(backbone: str | None) -> list[tuple[str | None, str | None]]:
        suite = mirrored_suite("small", mirror, backbone=backbone)
        return sorted({
            (suite.items[position].text or "", suite.items[position].instruction or "")
            for questions in suite.sets
            for position in questions.queries
        })  # fmt: skip

    assert queries(None) == [("", "Name the animal."), ("Name the animal.", "")]
    assert queries("qwen2_vl") == [("<|image_pad|> Name the animal.\n", "")], "both layouts give the same prompt"
    assert queries("llava_next") == [("<image> Name the animal.\n", "")]


def test_models_asked_in_their_own_words_are_asked_the_same(mirror: Path) -> None:
    plain, worded = mirrored_suite("small", mirror), mirrored_suite("small", mirror, backbone="qwen2_vl")
    assert plain.digest == worded.digest and plain.prompts != worded.prompts


def test_two_families_compare_on_the_same_rows_and_a_gate_can_still_refuse(mirror: Path, tmp_path: Path) -> None:
    def scored(backbone: str) -> Scores:
        suite = mirrored_suite("small", mirror, backbone=backbone, cache=tmp_path / "cache")
        return evaluate(HashEmbedder(), MODEL, suite, CONFIG, tmp_path / "cache", lambda _: None)

    qwen, llava = scored("qwen2_vl"), scored("llava_next")
    assert compare(qwen, llava, 1000, 0.95, same_prompts=False).overall.queries == 6
    with pytest.raises(UsageError, match="the prompts differ"):
        compare(qwen, llava, 1000, 0.95)
    write_set(mirror, "New", new(tgt_text=["a lion", "a tiger", "a bear", "a fox"]))
    with pytest.raises(UsageError, match="the data set differs"):
        compare(qwen, scored("llava_next"), 1000, 0.95, same_prompts=False)


def test_words_that_one_family_merges_are_the_same_rows(mirror: Path) -> None:
    """Without a backbone white space around a text is dropped, so that two candidates become one item."""
    write_set(mirror, "Old", old(tgt_text=["a lion", "a lion ", "a bear", ""]))
    plain, worded = (mirrored_suite("small", mirror, backbone=backbone) for backbone in (None, "qwen2_vl"))
    assert len(plain.items) != len(worded.items) and plain.digest == worded.digest
    write_set(mirror, "Old", old(tgt_text=["a lion", "a lion", "a bear", ""]))
    assert mirrored_suite("small", mirror).digest != plain.digest, "the files differ, if not for this family"


def test_an_image_that_was_replaced_in_a_mirror_is_noticed_by_a_warm_memory(mirror: Path, tmp_path: Path) -> None:
    before = mirrored_suite("small", mirror, cache=tmp_path).digest
    assert mirrored_suite("small", mirror, cache=tmp_path).digest == before
    write_image(mirror / "owner/eval/images/set/1.png", 41)
    assert mirrored_suite("small", mirror, cache=tmp_path).digest != before


def test_sets_are_chosen_by_name(mirror: Path) -> None:
    suite = mirrored_suite("small", mirror)
    assert chosen(suite, []) == suite and chosen(suite, ["New"]).missing == ["Old"]
    with pytest.raises(UsageError, match="small has no set Ancient") as caught:
        chosen(suite, ["New", "Ancient"])
    assert "New, Old" in caught.value.remedy


def test_a_part_of_the_sets_says_what_is_missing(mirror: Path) -> None:
    assert mirrored_suite("small", mirror, ["New"]).missing == ["Old"]


@pytest.mark.parametrize("change", ["an image", "a candidate", "the truth"])
def test_the_digest_knows_every_byte_that_a_score_depends_on(mirror: Path, change: str) -> None:
    before = mirrored_suite("small", mirror).digest
    assert mirrored_suite("small", mirror).digest == before
    if change == "an image":
        write_image(mirror / "owner/eval/images/set/1.png", 41)
    elif change == "a candidate":
        write_set(mirror, "New", new(tgt_text=["a lion", "a tiger", "a bear", "a fox"]))
    else:
        rows = old()
        rows[0]["tgt_text"] = ["a tiger", "a lion", "a bear", "a wolf"]
        write_set(mirror, "Old", rows)
    assert mirrored_suite("small", mirror).digest != before


def test_a_side_that_all_candidates_lack_may_be_one_string(mirror: Path) -> None:
    expected = mirrored_suite("small", mirror).items
    write_set(mirror, "Old", old(tgt_img_path=""))
    assert mirrored_suite("small", mirror).items == expected


@pytest.mark.parametrize("column", ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"])
@pytest.mark.parametrize(("name", "rows"), [("Old", old()), ("New", new())])
def test_a_set_without_one_of_its_columns_is_refused(
    mirror: Path, name: str, rows: list[dict[str, Any]], column: str
) -> None:
    write_set(mirror, name, [{key: row[key] for key in row if key != column} for row in rows])
    with pytest.raises(DataInvalid, match=rf"{name}/test-.*parquet: there is no column '{column}', only .*(qry|tgt)_"):
        mirrored_suite("small", mirror)


def test_a_row_that_the_prompt_cannot_word_is_named(mirror: Path) -> None:
    write_set(mirror, "New", [row | {"qry_inst": None} if n == 2 else row for n, row in enumerate(new())])
    with pytest.raises(DataInvalid, match=r"^New: .*parquet: row 2: .* has no instruction"):
        mirrored_suite("small", mirror, backbone="qwen2_vl")


def test_copies_that_the_prompt_makes_alike_are_one_candidate(mirror: Path) -> None:
    write_set(mirror, "Old", old(tgt_text=["a lion", "a lion\n", "a bear", "a lion"]))
    for backbone, candidates in ((None, 2), ("qwen2_vl", 3)):
        (pool,) = mirrored_suite("small", mirror, ["Old"], backbone).sets[0].pools
        assert len(pool.candidates) == candidates and len(pool.relevant) == 3
    write_set(mirror, "Old", old(tgt_text=["a lion", "a lion", "a bear"], tgt_img_path=""))
    with pytest.raises(DataInvalid, match="3 rows with up to 3 candidates; there should be 3 with up to 4"):
        mirrored_suite("small", mirror, ["Old"])


def test_blank_candidates_are_left_out_and_the_truth_is_still_the_truth(mirror: Path) -> None:
    write_set(mirror, "Old", old(tgt_text=["a lion", "", "a bear", ""]))
    (pool,) = mirrored_suite("small", mirror, ["Old"]).sets[0].pools
    assert len(pool.candidates) == 2 and {*map(tuple, pool.relevant)} == {(0, 0), (1, 0), (2, 0)}
    write_set(mirror, "Old", old(tgt_text=["", "a lion", "a bear", ""]))
    with pytest.raises(DataInvalid, match="row 0: label 0 is blank"):
        mirrored_suite("small", mirror, ["Old"])


@pytest.mark.parametrize(
    ("name", "tasks", "problem"),
    [("tiny", [], "there is no such benchmark"), ("small", ["Ancient"], "small has no set Ancient")],
)
def test_an_unknown_benchmark_or_set_is_named(mirror: Path, name: str, tasks: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        mirrored_suite(name, mirror, tasks)


def test_an_incomplete_set_is_an_error_and_never_an_average_over_the_rest(mirror: Path) -> None:
    (mirror / "owner/instruct/New/test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataInvalid, match="New"):
        mirrored_suite("small", mirror)
    assert read_benchmark("small").tasks.keys() == {"Old", "New"}

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics.pairwise import cosine_similarity

from components.corpus import Item, read_queries, task_names
from components.embedder import Embedder, Vectors
from components.errors import EmbedlineError, UsageError
from components.evaluation import Done, evaluate, read_suite, table
from components.evaluation.config import Evaluation
from components.registry import compare
from components.registry.config import Promotion
from components.scores import SCORER, Model, Scores
from tests.evaluation.conftest import CONFIG, MODEL, ConstantEmbedder, HashEmbedder, TableEmbedder, row, write_data

Score = Callable[..., Scores]
PROMOTION = Promotion(
    floors={"overall": 0.0},
    margin=0.5,
    max_task_drop=0.05,
    confidence=0.95,
    max_tie_rate=0.05,
    min_parity_cosine=0.97,
    max_latency_ms=100,
    max_size_bytes=10**9,
    sign_flips=200,
)


@pytest.fixture
def score(config: Evaluation, tmp_path: Path) -> Score:
    def score(data: Path, embedder: Embedder, fingerprint: str = "a") -> Scores:
        model = Model("model", fingerprint, embedder.dimension, 7)
        return evaluate(embedder, model, read_suite(data), config, tmp_path / "cache", lambda _: None)

    return score


def test_known_answers(score: Score, tmp_path: Path) -> None:
    rows = [
        row("east", ["right", "up", "corner"], [0]),
        row("north", ["right", "up", "corner"], [2]),
        row("north east", ["corner", "corner again", "up"], [0]),
        row("north", ["right", "up"], [1]),
    ]
    vectors: dict[str, list[float]] = {
        "east": [1, 0.1], "north": [0, 1], "north east": [1, 1], "right": [3, 0], "up": [0, 2], "corner": [1, 1],
        "corner again": [2, 2],
    }  # fmt: skip
    scores = score(write_data(tmp_path / "data", {"Set": rows}), TableEmbedder(vectors))
    task = scores.tasks["Set"]
    assert task.values == [1, 0, 0.5, 1] and task.score == 0.625 and task.tie_rate == 0.25
    assert (task.queries, task.candidates, task.metric) == (4, 3, "hit@1")
    assert scores.aggregates == {"overall": 0.625, "IND": 0.625, "retrieval": 0.625}


def test_scores_equal_an_independent_implementation(score: Score, data: Path) -> None:
    """Row by row, with scikit-learn's cosines, over the items of the plain reader."""
    scores, embedder = score(data, HashEmbedder()), HashEmbedder()
    for name in task_names(data, "eval"):
        hits: list[float] = []
        for query in read_queries(data, "eval", name):
            vectors = embedder.encode([query.item, *query.candidates]).astype(np.float64)
            similarities = cosine_similarity(vectors[:1], vectors[1:])[0]
            top = np.flatnonzero(similarities >= similarities.max() - 1e-12)
            hits.append(np.mean([index in query.relevant for index in top]))
        assert scores.tasks[name].values == pytest.approx(hits, abs=1e-12)
        assert scores.tasks[name].score == pytest.approx(np.mean(hits), abs=1e-12)
    assert 0 < scores.aggregates["overall"] < 0.5, "a random model hits by chance alone"


@pytest.mark.parametrize("value", [0.25, -3.0, 1e-20])
def test_a_constant_model_scores_chance_and_every_query_ties(score: Score, data: Path, value: float) -> None:
    scores = score(data, ConstantEmbedder(value))
    chance = {"Groups": 1 / 7, "Keywords": 2 / 30, "Names": 1 / 12, "Own": 1 / 20}
    assert {name: task.score for name, task in scores.tasks.items()} == pytest.approx(chance)
    assert {task.tie_rate for task in scores.tasks.values()} == {1}


@pytest.mark.parametrize(
    ("text", "value", "problem"),
    [
        ("word 3", np.nan, "model: Groups: a candidate of row 0, .*'word 3'.*: the vector is not finite"),
        ("name 4", np.inf, "model: Names: query of row 4: the vector is not finite"),
        ("word 45", 0.0, "model: Keywords: query of row 45: the vector is zero"),
    ],
)
def test_one_broken_vector_is_refused_by_model_set_and_row(
    score: Score, data: Path, text: str, value: float, problem: str
) -> None:
    class OneBroken(HashEmbedder):
        def vector(self, item: Item) -> Vectors:
            return super().vector(item) * (np.float32(value) if item.text == text else np.float32(1))

    with pytest.raises(EmbedlineError, match=problem):
        score(data, OneBroken())


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_a_model_whose_vectors_are_all_broken_is_refused(score: Score, data: Path, value: float) -> None:
    with pytest.raises(EmbedlineError, match="model: Groups: query of row 0: the vector is"):
        score(data, ConstantEmbedder(value))


def test_permuted_candidates_give_the_same_hits(score: Score, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    words = [f"word {number}" for number in range(50)]
    rows = [row(f"query {number}", words, [number % 50]) for number in range(100)]

    def permuted(question: dict[str, Any]) -> dict[str, Any]:
        order = generator.permutation(50)
        label = int(np.flatnonzero(order == question["label"][0])[0])
        return question | {"tgt_text": [words[index] for index in order], "label": [label]}

    plain = score(write_data(tmp_path / "plain", {"Set": rows}), HashEmbedder())
    other = score(write_data(tmp_path / "permuted", {"Set": [permuted(question) for question in rows]}), HashEmbedder())
    assert plain.tasks == other.tasks and sum(plain.tasks["Set"].values) > 0


PERFECT = {"q": [1, 0], "a": [1, 0], "b": [0, 1]}


@pytest.mark.parametrize("metric", ["hit@1", "recall@1", "ndcg_linear@5", "ndcg_exponential@5", "mrr@5", "map@5"])
@pytest.mark.parametrize("label", [[0], [2], [0, 2]])
def test_a_perfect_model_is_perfect_where_the_truth_is_listed_twice(
    score: Score, tmp_path: Path, metric: str, label: list[int]
) -> None:
    data = write_data(tmp_path / "data", {"Set": [row("q", ["a", "b", "a", "b", "b"], label)]})
    found = score(data, TableEmbedder(PERFECT)).tasks["Set"]
    assert found.values == [1.0] and found.metrics[metric] == pytest.approx(1) and found.tie_rate == 0
    wrong = score(data, TableEmbedder(PERFECT | {"q": [0, 1]}), "wrong").tasks["Set"]
    assert wrong.values == [0.0] and wrong.metrics["hit@5"] == 1


def test_copies_do_not_change_the_level_of_chance(score: Score, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", {"Set": [row("q", ["a", "b", "a", "b", "b"], [0])]})
    found = score(data, ConstantEmbedder()).tasks["Set"]
    assert (found.score, found.candidates) == (0.5, 2), "the two different candidates tie"


def test_the_file_holds_every_number_unrounded_and_is_read_back_as_it_was(
    score: Score, data: Path, tmp_path: Path
) -> None:
    scores = score(data, HashEmbedder())
    scores.write(tmp_path / "scores" / "model.json")
    assert [file.name for file in (tmp_path / "scores").iterdir()] == ["model.json"]
    assert Scores.read(tmp_path / "scores" / "model.json") == scores
    assert scores.model.parameters == 7 and scores.model.dimension == 16 and scores.scorer == SCORER
    low, high = scores.confidence["overall"]
    assert low < scores.aggregates["overall"] < high


@pytest.mark.parametrize(("content", "problem"), [("{}", "is no score file"), ('{"scorer": "1"}', "by scorer 1")])
def test_a_file_of_another_scorer_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "scores.json").write_text(content)
    with pytest.raises(UsageError, match=problem):
        Scores.read(tmp_path / "scores.json")


def test_the_gate_reads_the_file(score: Score, data: Path, tmp_path: Path) -> None:
    contents = []
    for fingerprint, embedder in (("a", HashEmbedder()), ("b", HashEmbedder()), ("c", ConstantEmbedder())):
        score(data, embedder, fingerprint).write(tmp_path / f"{fingerprint}.json")
        contents.append(Scores.read(tmp_path / f"{fingerprint}.json"))
    tasks = task_names(data, "eval")
    assert compare(contents[0], None, PROMOTION, tasks).passed
    assert compare(contents[0], contents[1], PROMOTION, tasks).passed
    collapsed = compare(contents[2], None, PROMOTION, tasks)
    assert any("100.0% of the queries are ties" in reason for reason in collapsed.reasons)


def test_progress_rises_to_the_number_of_items_of_each_set_and_of_all(
    data: Path, config: Evaluation, tmp_path: Path
) -> None:
    suite = read_suite(data)
    for _ in range(2):
        calls: list[Done] = []
        evaluate(HashEmbedder(), MODEL, suite, config, tmp_path / "cache", calls.append)
        overall = [done.all_items for done in calls]
        assert overall == sorted(overall) and overall[-1] == len(suite.items) == calls[-1].of_all
        assert {done.task for done in calls if done.items == done.of} == set(suite.benchmark.tasks)


def test_a_part_of_the_sets_has_no_overall_and_says_what_is_missing(score: Score, data: Path, tmp_path: Path) -> None:
    whole = read_suite(data)
    part = dataclasses.replace(whole, sets=whole.sets[1:])
    scores = evaluate(HashEmbedder(), MODEL, part, CONFIG, tmp_path / "cache", lambda _: None)
    assert scores.missing == ["Groups"] and "overall" not in scores.aggregates and not scores.confidence
    everything = score(data, HashEmbedder())
    assert everything.tasks["Own"] == scores.tasks["Own"] and everything.missing == []
    assert scores.aggregates["retrieval"] == everything.aggregates["retrieval"]


@pytest.mark.parametrize("rounding", [np.float16, np.float32])
def test_an_encoder_of_rounded_or_tiny_vectors_is_scored_as_what_it_is(
    score: Score, data: Path, rounding: type[np.floating]
) -> None:
    class Rounded(HashEmbedder):
        def encode(self, items: Sequence[Item]) -> Vectors:
            return (super().encode(items) * 2**-10).astype(rounding).astype(np.float32)

    plain, rounded = score(data, HashEmbedder()), score(data, Rounded(), "rounded")
    assert rounded.aggregates["overall"] == pytest.approx(plain.aggregates["overall"], abs=0.01)


def test_the_table_shows_models_beside_each_other_and_marks_ties(score: Score, data: Path) -> None:
    console = Console(width=120, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(table({"first": score(data, HashEmbedder()), "collapsed": score(data, ConstantEmbedder())}))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capture.get().splitlines() if "│" in line]
    sets = ["Groups", "Keywords", "Names", "Own"]
    groups = ["overall", "IND", "OOD", "classification", "retrieval", "vqa"]
    assert [cells[0] for cells in rows] == [*groups, *sets, "parameters"]
    assert rows[6][2] == "14.3 (ties 100%)" and "ties" not in rows[6][1] and " to " in rows[0][1]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"tasks.Own.values.3": 7.0}, "tasks.Own.values.3: .* less than or equal"),
        ({"tasks.Own.values.3": -0.1}, "tasks.Own.values.3: .* greater than or equal"),
        ({"tasks.Own.values.3": float("nan")}, "tasks.Own.values.3: .* finite"),
        ({"tasks.Own.values.3": "1"}, "tasks.Own.values.3: .* valid number"),
        ({"tasks.Own.values": [1.0]}, "Own: 1 values for 40 queries"),
        ({"tasks.Own.score": 0.9}, "Own: the score 0.9 is not the mean of its values"),
        ({"tasks.Own.queries": 0}, "tasks.Own.queries: "),
        ({"tasks.Own.interval": [0.1]}, "tasks.Own.interval.1: "),
        ({"tasks": []}, "tasks: "),
        ({"aggregates.overall": 60.2}, "aggregates.overall: "),
        ({"model.dimension": None}, "model.dimension: "),
        ({"prompts": ...}, "prompts: Field required"),
        ({"dataset_digest": ...}, "dataset_digest: Field required"),
        ({"dataset_digest": ""}, "dataset_digest: .* at least 1 character"),
        ({"model.fingerprint": ...}, "model.fingerprint: Field required"),
        ({"tasks.Own.values": ...}, "tasks.Own.values: Field required"),
        ({"tasks.Own.score": ...}, "tasks.Own.score: Field required"),
        ({"tasks.Own.metric": ...}, "tasks.Own.metric: Field required"),
        ({"surplus": 1}, "surplus: Unexpected"),
        ({"items_per_second": 100.0}, "items_per_second: Unexpected"),
    ],
)
def test_a_malformed_score_file_is_refused_by_file_set_and_defect(
    score: Score, data: Path, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    file = tmp_path / "scores.json"
    score(data, HashEmbedder()).write(file)
    content = json.loads(file.read_text())
    assert Scores.read(file).tasks.keys() == content["tasks"].keys(), "a negative control"
    for place, value in changes.items():
        *parents, last = (int(step) if step.isdecimal() else step for step in place.split("."))
        inner = content
        for parent in parents:
            inner = inner[parent]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match=rf"scores\.json: .*{problem}") as caught:
        Scores.read(file)
    assert "again" in caught.value.remedy


@pytest.mark.parametrize("content", ["", "[]", "3", "null", '{"scorer": null}', "\udcff"])
def test_a_file_of_something_else_is_no_score_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=r"x\.json: "):
        Scores.read(tmp_path / "x.json")
    with pytest.raises(UsageError, match="no score file"):
        Scores.read(tmp_path)


def test_scores_that_cannot_be_written_are_said_to_be(score: Score, data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"file/scores\.json cannot be written"):
        score(data, HashEmbedder()).write(tmp_path / "file" / "scores.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UsageError, match=r"folder\.json cannot be written"):
        score(data, HashEmbedder()).write(tmp_path / "folder.json")
    assert not list(tmp_path.glob(".*.partial"))

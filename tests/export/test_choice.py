"""What is served by `auto` is the fastest of those that lose no more than they may, whatever else is faster."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from components.corpus import Item
from components.embedder import Embedder, OnnxEmbedder
from components.errors import UsageError
from components.export import package, read_bundle, served_variant
from components.export.choice import (
    CHOICE,
    RUNS,
    Measured,
    choose,
    markdown,
    report,
    speeds,
    write_choice,
)
from components.export.sample import training_items
from components.scores import SCORER, Model, Scores, TaskScore
from components.stages import export as stage
from tests.export.conftest import EXPORT, SERVING

AUTO = SERVING.model_copy(update={"variant": "auto"})
FP32 = Measured("cpu", 100, 200.0, 100.0, 1.0, 1.0, 1.0, 0.8, (0.7, 0.9), 0.0, 0.0)
CONSTANT = """
def answer_at_once(self, texts, images, instructions):
    vectors = np.zeros((len(texts), self.description.dimension), np.float32)
    vectors[:, 0] = 1
    return vectors
Runtime.encode = answer_at_once
"""
SLOW = """
import time
encode = Runtime.encode
def wait(self, *parts):
    time.sleep(0.5)
    return encode(self, *parts)
Runtime.encode = wait
"""


def faster(times: float, **different: Any) -> Measured:
    return replace(FP32, texts_per_second=200 * times, images_per_second=100 * times, **different)


def chosen(measured: dict[str, Measured], max_loss: float) -> str:
    (row,) = (row for row in choose(list(measured), measured, max_loss) if row.chosen)
    return row.variant


def test_the_fastest_within_the_loss_is_chosen_and_none_beyond_it() -> None:
    measured = {
        "fp32": FP32,
        "int8": faster(3, loss=0.005, loss_limit=0.009),
        "int4": faster(9, loss=0.005, loss_limit=0.011),
        "fp16": faster(2, loss=-0.1, loss_limit=-0.05),
    }
    assert chosen(measured, 0.01) == "int8"
    assert chosen(measured, 0.009) == "int8"
    assert chosen(measured, 0.0089) == "fp16"
    assert chosen(measured, 0.02) == "int4"
    assert chosen({name: replace(each, loss_limit=0.5) for name, each in measured.items()}, 0.01) == "fp32"
    reasons = {row.variant: row.why for row in choose([*measured, "openvino_bf16"], measured, 0.01)}
    assert reasons["int4"] == "may lose 1.1 points, more than 1.0"
    assert reasons["fp32"].startswith("slower: 133 items/s, int8 400")
    assert reasons["openvino_bf16"] == "not computed on this machine"


def test_a_variant_slower_than_fp32_is_never_chosen() -> None:
    assert chosen({"fp32": FP32, "fp16": faster(0.99)}, 1.0) == "fp32"
    assert chosen({"fp32": FP32, "fp16": faster(1.01)}, 1.0) == "fp16"


def test_text_and_images_count_alike_by_their_time() -> None:
    assert FP32.items_per_second == pytest.approx(2 / (1 / 200 + 1 / 100))
    mixed = replace(FP32, texts_per_second=1e9, images_per_second=60.0)
    assert chosen({"fp32": FP32, "int8": mixed}, 1.0) == "fp32"


def test_speeds_are_taken_by_turns() -> None:
    turns: list[str] = []

    def embedder(name: str) -> Any:
        return SimpleNamespace(encode=lambda _: turns.append(name))

    found = speeds({"one": embedder("one"), "two": embedder("two")}, [Item("a", None)] * 3)
    assert turns == ["one", "two"] * (RUNS + 1)
    assert set(found) == {"one", "two"} and min(found.values()) > 0


def neighbours(reference: OnnxEmbedder, items: Sequence[Item]) -> Callable[[Embedder], Scores]:
    """Returns a scorer: a hit is an item whose nearest other one is that of the reference."""

    def nearest(embedder: Embedder) -> Any:
        vectors = embedder.encode(items)
        similarity = vectors @ vectors.T
        np.fill_diagonal(similarity, -1)
        return similarity.argmax(1)

    expected = nearest(reference)

    def score(embedder: Embedder) -> Scores:
        values = (nearest(embedder) == expected).astype(float).tolist()
        mean = float(np.mean(values))
        task = TaskScore("text", "retrieval", None, "hit@1", mean, (0.0, 1.0), len(values), 10, 0.0, values, {})
        model = Model(embedder.name, embedder.name, embedder.dimension, None)
        return Scores(model, "dev", "data", SCORER, "prompts", {"Name": task}, [], [], {"overall": mean}, {})

    return score


@pytest.fixture
def copy(onnx: Path, tmp_path: Path) -> Callable[[str, str], Path]:
    """Makes an export of twice fp32, one called int8, with these lines at the end of each `runtime.py`."""

    def make(fp32: str, int8: str) -> Path:
        target = tmp_path / "onnx"
        shutil.copytree(onnx, target)
        shutil.rmtree(target / "int8")
        shutil.copytree(target / "fp32", target / "int8")
        for name, lines in (("fp32", fp32), ("int8", int8)):
            with (target / name / "runtime.py").open("a", encoding="utf-8") as file:
                file.write(lines)
        return target

    return make


@pytest.mark.slow
def test_what_answers_wrong_is_not_taken_though_it_is_the_fastest(
    copy: Callable[[str, str], Path], onnx: Path, data: Path
) -> None:
    target, items = copy(SLOW, CONSTANT), training_items(data)
    score = neighbours(OnnxEmbedder(onnx / "fp32"), items)
    rows = {row.variant: row for row in write_choice(target, ["fp32", "int8"], items, score, 0.1)}
    fast, slow = rows["int8"].measured, rows["fp32"].measured
    assert fast and slow and fast.items_per_second > 10 * slow.items_per_second
    assert fast.loss > 0.8 and fast.rank_agreement_10 < 0.5
    assert served_variant(AUTO, target) == "fp32" and "may lose" in rows["int8"].why


def test_what_answers_alike_is_taken_where_it_is_the_fastest_and_is_what_is_packed(
    copy: Callable[[str, str], Path], onnx: Path, data: Path, tmp_path: Path
) -> None:
    target, items = copy(SLOW, ""), training_items(data)
    score = neighbours(OnnxEmbedder(onnx / "fp32"), items)
    rows = {row.variant: row for row in write_choice(target, ["fp32", "int8"], items, score, 0.1)}
    assert rows["int8"].chosen and not rows["fp32"].chosen
    assert rows["int8"].measured and rows["int8"].measured.rank_agreement_1 == 1
    assert 0 < rows["int8"].measured.loss_limit < 0.1
    assert report(target) == list(rows.values())
    assert package(AUTO, target, data, tmp_path / "bundle", "# A card").variant == "int8"
    assert read_bundle(tmp_path / "bundle").variant == "int8"


@pytest.mark.slow
def test_a_loss_that_few_queries_cannot_rule_out_is_a_loss(
    copy: Callable[[str, str], Path], onnx: Path, data: Path
) -> None:
    target, items = copy(SLOW, ""), training_items(data)[:10]
    score = neighbours(OnnxEmbedder(onnx / "fp32"), items)
    write_choice(target, ["fp32", "int8"], training_items(data), score, 0.1)
    assert served_variant(AUTO, target) == "fp32"


def test_a_named_variant_needs_no_choice_and_auto_does(tmp_path: Path) -> None:
    assert served_variant(SERVING, tmp_path) == "int8"
    with pytest.raises(UsageError, match="missing; the variants were not measured") as caught:
        served_variant(AUTO, tmp_path)
    assert "export.max_score_loss" in caught.value.remedy


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "chooses not exactly one variant"),
        ('[{"variant": "fp32"}]', "is no table of variants of this version"),
        ("fp32", "is no table of variants of this version"),
    ],
)
def test_a_broken_table_is_refused(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / CHOICE).write_text(content)
    with pytest.raises(UsageError, match=said):
        served_variant(AUTO, tmp_path)


def test_the_table_reads_well() -> None:
    measured = {"fp32": FP32, "int8": faster(2, loss_limit=0.001)}
    lines = markdown(choose(["fp32", "int8", "openvino_bf16"], measured, 0.01)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[3].startswith(
        "| **int8** | cpu | 0.0 | 400 | 200 | 1.0000 | 100.0 % | 100.0 % | 80.0 (70.0 to 90.0) |"
    )
    assert lines[4] == "| openvino_bf16 | - | - | - | - | - | - | - | - | not computed on this machine |"


@pytest.mark.slow
@pytest.mark.parametrize("max_loss", [None, 0.5])
def test_the_stage_measures_only_where_it_is_said_how_much_may_be_lost(
    max_loss: float | None,
    student: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("artifacts").mkdir()
    Path("artifacts/student").symlink_to(student)
    Path("data").symlink_to(data)
    config: Any = SimpleNamespace(export=EXPORT.model_copy(update={"max_score_loss": max_loss}))
    run: Any = SimpleNamespace(log_metrics=lambda _: None)
    stage.run(config, run)
    path = Path("artifacts/onnx") / CHOICE
    assert path.exists() == (max_loss is not None)
    if max_loss is not None:
        rows = json.loads(path.read_text())
        assert [row["variant"] for row in rows] == ["fp32", "int8"]
        assert sum(row["chosen"] for row in rows) == 1
        assert markdown(report(Path("artifacts/onnx"))) in capsys.readouterr().out


def test_the_command_line_shows_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("artifacts/onnx").mkdir(parents=True)
    rows = choose(["fp32", "int8"], {"fp32": FP32, "int8": faster(2)}, 0.01)
    (Path("artifacts/onnx") / CHOICE).write_text(json.dumps([asdict(row) for row in rows]))
    shown = CliRunner().invoke(app, ["export", "--report"])
    assert shown.exit_code == 0 and markdown(rows) in shown.stdout
    as_json = CliRunner().invoke(app, ["export", "--report", "--json"])
    assert [row["chosen"] for row in json.loads(as_json.stdout)] == [False, True]

"""Scores go out and come in by VLM2Vec's layout; what came in is shown, never compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import DataInvalid, UsageError
from components.evaluation import Benchmark
from components.evaluation.metrics import REPORTED
from components.evaluation.reports.vlm2vec import Reported, read_report, write_report, write_score_files
from components.scores import Scores
from components.scores.comparison import compare
from tests.evaluation.conftest import task
from tests.scores.made_up import scores, task_score

BENCHMARK = Benchmark(
    name="small",
    tasks={
        "Groups": task("classification", "IND"),
        "Own": task("vqa", "OOD"),
        "Clips": task("moments", None, modality="video"),
        "Pages": task("documents", None, modality="visdoc", metric="ndcg_linear@5"),
    },
)
Write = Callable[..., Path]


@pytest.fixture
def ours() -> Scores:
    return scores(
        "student",
        {
            "Groups": task_score("classification", "IND", 0.9),
            "Own": task_score("vqa", "OOD", 0.5),
            "Clips": task_score("moments", None, 0.3, modality="video"),
            "Pages": task_score("documents", None, 0.7, modality="visdoc", metric="ndcg_linear@5"),
        },
    )


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a report of hit@1 (of documents: NDCG) by set, with changes to single sets."""

    def write(**changes: Any) -> Path:
        metrics: dict[str, dict[str, Any]] = {"image": {}, "video": {}, "visdoc": {}}
        for name, known in BENCHMARK.tasks.items():
            metrics[known.modality][name] = {known.metric: 0.5, "num_pred": 10, "num_data": 10}
        metrics["image"] |= changes
        report = {"metadata": {"model_name": "GME"}, "metrics": metrics}
        (tmp_path / "GME.json").write_text(json.dumps(report))
        return tmp_path / "GME.json"

    return write


def test_the_report_has_the_layout_that_vlm2vec_reads(ours: Scores, tmp_path: Path) -> None:
    write_report(ours, tmp_path / "new" / "student.json")
    report = json.loads((tmp_path / "new" / "student.json").read_text())
    assert list(report) == ["metadata", "metrics"] and report["metadata"]["model_name"] == "student"
    assert report["metadata"]["model_size"] == 0.0052 and report["metadata"]["embedding_dimension"] == 16
    assert report["metadata"]["dataset_digest"] == "d" * 64 and report["metadata"]["scorer"] == "2"
    sets = {modality: list(named) for modality, named in report["metrics"].items()}
    assert sets == {"image": ["Groups", "Own"], "video": ["Clips"], "visdoc": ["Pages"]}
    assert report["metrics"]["image"]["Own"] == dict.fromkeys(REPORTED, 0.5) | {"num_pred": 10, "num_data": 10}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["student.json"]


def test_a_report_is_read_back_as_it_was_written(ours: Scores, tmp_path: Path) -> None:
    write_report(ours, tmp_path / "student.json")
    read = read_report(tmp_path / "student.json", BENCHMARK)
    assert read == Reported(
        "student",
        "small",
        {name: score.metrics for name, score in ours.tasks.items()},
        {"Groups": 0.9, "Own": 0.5, "Clips": 0.3, "Pages": 0.7},
        [],
        [],
        [],
    )
    assert read.overall == pytest.approx(0.6), "the mean over sets, not over modalities (which is 0.5667)"


def test_score_files_hold_the_same_as_the_report(ours: Scores, tmp_path: Path) -> None:
    write_report(ours, tmp_path / "report.json")
    write_score_files(ours, tmp_path / "student")
    files = sorted(file.relative_to(tmp_path / "student").as_posix() for file in (tmp_path / "student").rglob("*.json"))
    names = ["image/Groups", "image/Own", "video/Clips", "visdoc/Pages"]
    assert files == [f"{name}_score.json" for name in names]
    assert read_report(tmp_path / "student", BENCHMARK) == read_report(tmp_path / "report.json", BENCHMARK)


def test_score_files_do_not_mix_with_those_of_another_model(ours: Scores, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").write_text("kept")
    with pytest.raises(UsageError, match="there: exists already"):
        write_score_files(ours, tmp_path / "there")
    assert (tmp_path / "there" / "precious").read_text() == "kept"


def test_files_of_version_1_are_read_as_hit_at_1(tmp_path: Path) -> None:
    benchmark = Benchmark(name="v1", tasks={"Groups": task("classification", "IND"), "Own": task("vqa", "OOD")})
    for name, hits in {"Groups": 9, "Own": 4}.items():
        content = {"acc": hits / 10, "num_correct": hits, "num_pred": 10}
        (tmp_path / f"{name}_score.json").write_text(json.dumps(content))
    read = read_report(tmp_path, benchmark)
    assert read.scores == {"Groups": 0.9, "Own": 0.4} and read.metrics["Own"] == {"hit@1": 0.4}
    assert read.overall == pytest.approx(0.65) and read.model == tmp_path.name


@pytest.mark.parametrize(
    ("changes", "missing", "extra", "resized"),
    [
        ({"Own": "FILE_N/A"}, ["Own"], [], []),
        ({"More": {"hit@1": 0.5, "num_pred": 10}}, [], ["More"], []),
        ({"Own": {"hit@1": 0.5, "num_pred": 9}}, [], [], ["Own"]),
    ],
)
def test_another_list_of_sets_has_no_overall_and_says_why(
    write: Write, changes: dict[str, Any], missing: list[str], extra: list[str], resized: list[str]
) -> None:
    read = read_report(write(**changes), BENCHMARK)
    assert (read.missing, read.extra, read.resized) == (missing, extra, resized) and read.overall is None
    assert read.scores.keys() == BENCHMARK.tasks.keys() - missing
    assert read_report(write(), BENCHMARK).overall == 0.5, "the whole list has one"


def test_what_reports_hold_beside_the_benchmark_takes_no_overall(write: Write) -> None:
    """The reports v2.0.1 hold all 78 sets, and the earlier queries of MomentSeeker too."""
    older = {"hit@1": 0.9, "num_pred": 1800, "num_data": 1800}
    read = read_report(write(MomentSeeker_1k8=older, ViDoRe_esg_reports_v2=older), BENCHMARK)
    assert read.extra == [] and read.overall == 0.5 and "MomentSeeker_1k8" not in read.scores
    assert read.metrics["MomentSeeker_1k8"] == {"hit@1": 0.9}, "it is shown"
    assert read_report(write(MomentSeeker_1k9=older), BENCHMARK).overall is None, "a negative control"


def test_the_corrected_labels_of_a_set_go_by_its_name(write: Write) -> None:
    corrected = {"hit@1": 0.25, "num_pred": 10}
    read = read_report(write(**{"Own": "FILE_N/A", "Own-fixed": corrected}), BENCHMARK)
    assert read.scores["Own"] == 0.25 and not read.missing and not read.extra
    with pytest.raises(DataInvalid, match="Own is there twice"):
        read_report(write(**{"Own-fixed": corrected}), BENCHMARK)


@pytest.mark.parametrize(
    ("scored", "problem"),
    [
        ({"hit@1": 55.8, "num_pred": 10}, "less than or equal to 1"),
        ({"hit@1": float("nan"), "num_pred": 10}, "GME.json: is no score file"),
        ({"hit@1": "0.5", "num_pred": 10}, "valid number"),
        ({"hit@1": 0.5}, "num_pred"),
        ({"hit@5": 0.5, "num_pred": 10}, "Own has no hit@1"),
        (None, "GME.json: is no score file"),
    ],
)
def test_a_broken_set_is_refused(write: Write, scored: object, problem: str) -> None:
    with pytest.raises(DataInvalid, match=problem):
        read_report(write(Own=scored), BENCHMARK)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"metrics": {}}', '{"metadata": {}, "metrics": {}}'])
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(DataInvalid, match="is no score file of VLM2Vec"):
        read_report(tmp_path / "report.json", BENCHMARK)


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_report(tmp_path / "absent.json", BENCHMARK)
    with pytest.raises(UsageError, match="holds no score files"):
        read_report(tmp_path, BENCHMARK)


def test_what_was_imported_is_never_compared(ours: Scores, tmp_path: Path) -> None:
    write_report(ours, tmp_path / "student.json")
    with pytest.raises(UsageError, match="is no score file"):
        Scores.read(tmp_path / "student.json")
    assert compare(ours, ours, 1000, 0.95).overall.difference == 0, "files with the values of queries do"

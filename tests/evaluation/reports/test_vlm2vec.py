"""Scores go out in VLM2Vec's layout, which is no score file of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.errors import UsageError
from components.evaluation.metrics import REPORTED
from components.evaluation.reports.vlm2vec import write_report
from components.scores import Scores
from components.scores.comparison import compare
from tests.scores.made_up import scores, task_score


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


def test_the_report_has_the_layout_that_vlm2vec_reads(ours: Scores, tmp_path: Path) -> None:
    write_report(ours, tmp_path / "new" / "student.json")
    report = json.loads((tmp_path / "new" / "student.json").read_text())
    assert list(report) == ["metadata", "metrics"] and report["metadata"]["model_name"] == "student"
    assert report["metadata"]["model_size"] == 0.0052 and report["metadata"]["embedding_dimension"] == 16
    assert report["metadata"]["dataset_digest"] == "d" * 64 and report["metadata"]["scorer"] == "2"
    sets = {modality: list(named) for modality, named in report["metrics"].items()}
    assert sets == {"image": ["Groups", "Own"], "video": ["Clips"], "visdoc": ["Pages"]}
    assert report["metrics"]["image"]["Own"] == dict.fromkeys(REPORTED, 0.5) | {"num_pred": 10, "num_data": 10}
    written = {name: metrics for named in report["metrics"].values() for name, metrics in named.items()}
    sizes = {"num_pred": 10, "num_data": 10}
    assert written == {name: score.metrics | sizes for name, score in ours.tasks.items()}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["student.json"]


def test_a_report_is_never_compared(ours: Scores, tmp_path: Path) -> None:
    write_report(ours, tmp_path / "student.json")
    with pytest.raises(UsageError, match="is no score file"):
        Scores.read(tmp_path / "student.json")
    assert compare(ours, ours, 1000, 0.95).overall.difference == 0, "files with the values of queries do"

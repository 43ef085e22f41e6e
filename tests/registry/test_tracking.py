import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components import lineage
from components.errors import EmbedlineError
from components.registry import tracking
from components.registry.dataset_source import DvcDatasetSource
from components.registry.tracking import Run, Tracking

REPOSITORY = Path(__file__).parents[2]
STAGE = """
import pathlib
from components.registry import tracking
with tracking.log_stage("first") as run:
    run.log_metrics({"loss": 0.5})
    pathlib.Path("artifacts/first").write_text("result")
"""
PIPELINE = """
stages:
  first:
    cmd: python first.py
    deps: [first.py]
    outs: [artifacts/first]
    metrics: [{artifacts/runs/first.json: {cache: false}}]
"""


def test_a_run_holds_parameters_metrics_over_time_and_the_data_set(server: Tracking, run: Run) -> None:
    run.log_parameters(
        {"teacher": {"schedule": {"steps": 10}, "max_tokens": 64}, "hub_token": "s3cret", "db": {"password": "s3cret"}}
    )
    run.log_history((step, {"loss": 1 / step, "dev/hit@1": step / 2000}) for step in range(1, 1501))
    run.log_dataset("0123456789abcdef0123456789abcdef.dir", "training", commit="c0ffee")
    found = server.client.get_run(run.run_id)
    assert found.data.params == {"teacher.schedule.steps": "10", "teacher.max_tokens": "64"}
    assert found.data.metrics["dev/hit_at_1"] == pytest.approx(0.75)
    history = server.client.get_metric_history(run.run_id, "loss")
    assert [metric.step for metric in history] == list(range(1, 1501))
    assert found.inputs
    (entry,) = found.inputs.dataset_inputs
    assert entry.dataset.digest == "0123456789abcdef0123456789abcdef.dir" and entry.dataset.source_type == "dvc"
    assert DvcDatasetSource.from_json(entry.dataset.source).to_dict()["commit"] == "c0ffee"


def test_the_source_of_a_data_set_gives_that_version_or_says_how_to_fetch_it(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text("outs: [{md5: abc.dir, path: data}]")
    assert DvcDatasetSource("data", "abc.dir").load(tmp_path) == tmp_path / "data"
    with pytest.raises(EmbedlineError, match=r"holds version abc.dir, not old.dir") as error:
        DvcDatasetSource("data", "old.dir", "c0ffee").load(tmp_path)
    assert "git checkout c0ffee data.dvc" in error.value.remedy


def test_a_stage_process_resumes_the_run_that_it_is_given(
    server: Tracking, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.stage_run(run, "teacher") as child:
        monkeypatch.setenv("MLFLOW_RUN_ID", child.run_id)
        with tracking.log_stage("teacher", server.root) as resumed:
            assert resumed.run_id == child.run_id
            resumed.log_metrics({"hit@1": 0.5})
    found = server.client.get_run(child.run_id)
    assert found.info.status == "FINISHED" and found.data.metrics["hit_at_1"] == 0.5
    costs = tracking.producer_metrics(server, "teacher")
    assert 0 < costs["stage_seconds"] < 60 and 0 < costs["cpu_seconds"] < 60
    assert tracking.producer_metrics(server, "distill") == {}
    assert found.data.tags["mlflow.parentRunId"] == run.run_id and "reused_from" not in found.data.tags
    assert tracking.producing_run(server.root, "teacher") == child.run_id


def test_a_stage_alone_makes_a_run_of_its_own_and_marks_it_failed_on_error(server: Tracking) -> None:
    with pytest.raises(ValueError, match="broken"), tracking.log_stage("teacher", server.root) as run:
        raise ValueError("broken")
    assert server.client.get_run(run.run_id).info.status == "FAILED"
    assert tracking.producing_run(server.root, "teacher") is None
    with tracking.log_stage("teacher", server.root) as run:
        pass
    assert server.client.get_run(run.run_id).info.status == "FINISHED"
    assert json.loads((server.root / "artifacts/runs/teacher.json").read_text()) == {"run_id": run.run_id}


def test_runs_that_a_killed_round_left_open_are_closed(server: Tracking, run: Run) -> None:
    tracking.start_round(server, {}, {})
    assert server.client.get_run(run.run_id).info.status == "KILLED"


@pytest.mark.system("git")
def test_a_stage_that_dvc_skips_names_the_run_that_made_its_outputs(server: Tracking, run: Run) -> None:
    root = server.root
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "first.py").write_text(STAGE)
    (root / "artifacts").mkdir()
    lineage.start_repository(root, print)
    environment = {"PYTHONPATH": str(REPOSITORY)}
    runs = []
    for _ in range(2):
        with tracking.stage_run(run, "first") as child:
            ran = lineage.reproduce(root, "first", {"MLFLOW_RUN_ID": child.run_id, **environment}).ran
        runs.append((ran, server.client.get_run(child.run_id)))
    (ran, first), (ran_again, second) = runs
    assert ran and first.data.metrics["loss"] == 0.5 and "reused_from" not in first.data.tags
    assert not ran_again and second.data.tags["reused_from"] == first.info.run_id
    assert lineage.producing_runs(root) == {"first": first.info.run_id}


@pytest.mark.slow
def test_processes_that_meet_on_a_fresh_workspace_create_its_database_once(tmp_path: Path) -> None:
    code = (
        "import pathlib; from components.registry import tracking\n"
        "print(tracking.prepare(pathlib.Path('.')).experiment_id)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    answers = {process.communicate()[0].decode().strip() for process in started}
    assert answers == {"1"} and [process.returncode for process in started] == [0, 0]


def test_the_environment_names_another_server(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    shutil.copy(database / ".embedline" / "mlflow.db", elsewhere)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    assert tracking.prepare(tmp_path).uri == f"sqlite:///{elsewhere}"
    assert not (tmp_path / ".embedline" / "mlflow.db").exists()

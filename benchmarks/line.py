"""How long the line takes, stage by stage, and how much memory: a first run, one with nothing changed, one with a
changed serving parameter. Each in a copy of this checkout, so that nothing of yours is touched.

    python benchmarks/line.py            the three runs
    python benchmarks/line.py --quick    only the last two, on what this checkout has made already
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import typer

from components.quiet import configure
from components.stages import STAGES
from components.workspace import STATE
from table import Row, show

ROOT = Path(__file__).resolve().parent.parent
KEPT = ("artifacts", "data", str(STATE), ".dvc", "dvc.lock", "checkpoints")
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Run:
    seconds: float
    peak_gib: float
    repeated: list[str]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Leave the first run out.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    configure()
    with tempfile.TemporaryDirectory() as folder:
        workspace = Path(folder) / "embedline"
        copy_checkout(workspace, with_artifacts=quick)
        rows = [] if quick else first_run(workspace)
        unchanged = run_line(workspace)
        rows += [
            limit("second run, nothing changed", unchanged.seconds, "s", 25),
            limit("second run: stages repeated", len(unchanged.repeated), "", 0),
        ]
        parameters = workspace / "params.yaml"
        parameters.write_text(parameters.read_text().replace("max_batch_size: 64", "max_batch_size: 32"))
        serving = run_line(workspace)
        others = [name for name in serving.repeated if name != "package"]
        rows += [
            Row("a serving parameter changed", serving.seconds, "s"),
            limit("a serving parameter changed: other stages repeated than package", len(others), "", 0),
        ]
    show("The line", rows, machine, caption="")


def first_run(workspace: Path) -> list[Row]:
    run = run_line(workspace)
    rows = [Row(f"stage {name}", seconds, "s") for name, seconds in stage_seconds(workspace).items()]
    return [
        *rows,
        Row(
            "everything else (Prefect, ingest, DVC, MLflow, Triton)", run.seconds - sum(row.value for row in rows), "s"
        ),
        limit("first run", run.seconds, "s", 480),
        limit("first run: peak memory of all processes", run.peak_gib, "GiB", 4),
    ]


def limit(name: str, value: float, unit: str, goal: float) -> Row:
    return Row(name, value, unit, goal=goal, met=value <= goal)


def copy_checkout(workspace: Path, with_artifacts: bool) -> None:
    """Copies what git tracks and what is new, and commits it there, as the line wants a git repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.split(b"\0")
    files = [name.decode() for name in listed if name and (ROOT / name.decode()).is_file()]
    kept = [name for name in KEPT if with_artifacts and (ROOT / name).exists()]
    workspace.mkdir(parents=True)
    archive = subprocess.run(["tar", "-c", *files, *kept], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=workspace, input=archive, check=True)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=b", "-c", "user.email=b@b", "commit", "-qm", "copy"],
    ):
        subprocess.run(["git", *command], cwd=workspace, check=True)


def run_line(workspace: Path) -> Run:
    """Runs the line in the workspace; raises `SystemExit` with its output if it fails."""
    command = [str(Path(sys.executable).with_name("embedline")), "run", "--json"]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak: list[float] = [0.0]
    watcher = threading.Thread(target=watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - began
    watcher.join()
    if process.returncode:
        raise SystemExit(f"the line failed:\n{output}")
    return Run(seconds, peak[0] / 2**30, json.loads(output.splitlines()[-1])["repeated"])


def watch(pid: int, peak: list[float]) -> None:
    """Keeps the largest sum of resident memory over the process and all its descendants, in bytes."""
    while psutil.pid_exists(pid):
        try:
            root = psutil.Process(pid)
            if root.status() == psutil.STATUS_ZOMBIE:
                return
            peak[0] = max(peak[0], sum(resident(process) for process in [root, *root.children(recursive=True)]))
        except psutil.NoSuchProcess:
            return
        time.sleep(POLL_SECONDS)


def resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def stage_seconds(workspace: Path) -> dict[str, float]:
    """Returns how long each stage took, as MLflow has it."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / STATE / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = {run.info.run_name: run.info for run in client.search_runs(experiments)}
    return {name: (runs[name].end_time - runs[name].start_time) / 1000 for name in STAGES}


if __name__ == "__main__":
    typer.run(main)

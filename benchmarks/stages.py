"""Each stage of this checkout beside the same stage of another commit, by turns on the same machine: the processor's
seconds of each and the scores at the end. Trainings are cut to a few steps, which cost what a step of them costs.

    python benchmarks/stages.py 82d9745 --steps 40 --turns 2
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import typer

from components.quiet import configure
from components.stages import STAGES
from components.workspace import METRICS
from table import Row, show

ROOT = Path(__file__).resolve().parent.parent
CALL = """import importlib, sys
module, main = sys.argv.pop(1).split(":")
getattr(importlib.import_module(module), main)()"""
SLOWER = 1.1  # a stage may take this many times what it took: two runs of one commit differ by less


def main(
    commit: Annotated[str, typer.Argument(help="The commit to compare with.")],
    steps: Annotated[int, typer.Option(help="Steps of each training.")] = 40,
    turns: Annotated[int, typer.Option(help="How often each stage runs in each checkout.")] = 2,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    configure()
    with tempfile.TemporaryDirectory() as folder:
        before, now = checkout(commit, steps, Path(folder) / "before"), checkout("HEAD", steps, Path(folder) / "now")
        seconds: dict[tuple[Path, str], list[float]] = defaultdict(list)
        for stage in STAGES:
            for turn in range(turns):
                for workspace in (before, now) if turn % 2 else (now, before):
                    shutil.rmtree(workspace / "checkpoints", ignore_errors=True)
                    seconds[workspace, stage].append(embedline(workspace, "stage", stage))
        took = {
            stage: [statistics.median(seconds[workspace, stage]) for workspace in (now, before)] for stage in STAGES
        }
        took["all stages"] = [sum(column) for column in zip(*took.values(), strict=True)]
        rows = [row(name, ours, theirs) for name, (ours, theirs) in took.items()]
        ours, theirs = (overall(workspace) for workspace in (now, before))
        rows.append(Row(f"score after {steps} steps [before]", ours, "%", peer=theirs, met=ours == theirs))
    show(f"Stages, by turns against {commit}", rows, machine)


def row(name: str, ours: float, theirs: float) -> Row:
    ratio = ours / theirs
    return Row(f"{name} [before]", ours, "processor seconds", theirs, ratio, goal=SLOWER, met=ratio <= SLOWER)


def checkout(commit: str, steps: int, workspace: Path) -> Path:
    """Returns a clone of the commit with its data and with short trainings."""
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, workspace], check=True)
    subprocess.run(["git", "checkout", "-q", commit], cwd=workspace, check=True)
    parameters = workspace / "params.yaml"
    parameters.write_text(re.sub(r"(?m)^( +steps:) \d+$", rf"\1 {steps}", parameters.read_text()))
    embedline(workspace, "ingest")
    return workspace


def embedline(workspace: Path, *arguments: str) -> float:
    """Runs a command of the checkout's own code and returns the processor's seconds, of all its processes."""
    entry = tomllib.loads((workspace / "pyproject.toml").read_text())["project"]["scripts"]["embedline"]
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", CALL, entry, *arguments],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(workspace)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"`embedline {' '.join(arguments)}` failed in {workspace}:\n{done.stdout}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def overall(workspace: Path) -> float:
    """Returns the student's overall score in percent."""
    metrics: dict[str, dict[str, float]] = json.loads((workspace / METRICS).read_text())
    return metrics["student"]["overall"] * 100


if __name__ == "__main__":
    typer.run(main)

"""A workspace with the whole line in small: all stages real, towers tiny, a minute in all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.profiles import overlay

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "cli.main")
TIMEOUT = 1800
START_SECONDS = 480
WORKSPACE = "workspace"


@dataclass(frozen=True)
class Line:
    """A workspace and its commands; each command is a process of its own, in a group that can be killed as a whole."""

    root: Path
    environment: dict[str, str]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        try:
            output, errors = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)

    def answer(self, *arguments: str) -> Any:
        """Returns what a command says with `--json`; fails the test if it fails."""
        finished = self.call(*arguments, "--json")
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return json.loads(finished.stdout.splitlines()[-1])

    def change(self, **sections: dict[str, Any]) -> None:
        """Changes knobs of params.yaml, section by section."""
        path = self.root / "params.yaml"
        content = overlay(yaml.safe_load(path.read_text(encoding="utf-8")), sections)
        path.write_text(yaml.safe_dump(content), encoding="utf-8")

    def producers(self) -> dict[str, str]:
        """The MLflow run that made the outputs of each stage that has finished."""
        return {
            file.stem: file.read_text(encoding="utf-8") for file in (self.root / "artifacts" / "runs").glob("*.json")
        }


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, "".join(process.communicate())
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def fresh_line(tmp_path: Path, text_model: Path) -> Line:
    """A copy of this checkout with a small configuration, committed to a git repository of its own."""
    return make_line(tmp_path, text_model)


@pytest.fixture(scope="session")
def ingested(tmp_path_factory: pytest.TempPathFactory, text_model: Path) -> Path:
    """The folder with a fresh line that has built its data set, which others start as copies of."""
    folder = tmp_path_factory.mktemp("ingested")
    done = make_line(folder, text_model).call("ingest")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def line(ingested: Path, tmp_path: Path) -> Line:
    """A line that has its data set, but has run no stage."""
    shutil.copytree(ingested, tmp_path, dirs_exist_ok=True, symlinks=True)
    return Line(tmp_path / WORKSPACE, environment_of(tmp_path))


def make_line(folder: Path, text_model: Path) -> Line:
    root = folder / WORKSPACE
    root.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    files = [name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]
    archive = subprocess.run(["tar", "-c", *files], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=root, input=archive, check=True)
    environment = environment_of(folder)
    line = Line(root, environment)
    shrink(line, text_model)
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "workspace"]):
        subprocess.run(["git", *arguments], cwd=root, env=environment, check=True)
    return line


def environment_of(folder: Path) -> dict[str, str]:
    """Returns the variables of a workspace's commands, which keep what they need besides it in `folder`."""
    return os.environ | {
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "GIT_AUTHOR_NAME": "t",
        "GIT_COMMITTER_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@t",
        "GIT_COMMITTER_EMAIL": "t@t",
        "OMP_NUM_THREADS": "2",
    }


def shrink(line: Line, text_model: Path) -> None:
    """Makes every part small; which parts there are stays as it is."""
    content = yaml.safe_load((line.root / "params.yaml").read_text(encoding="utf-8"))
    content["corpus"] |= {
        "trained_languages": ["de"],
        "unseen_languages": ["it"],
        "train_scenes": 60,
        "dev_scenes": 9,
        "eval_scenes": 30,
        "image_size": 24,
        "scene_size": 48,
    }
    image = {"kind": "residual", "image_size": 16, "widths": [8, 16], "depths": [1, 1]}
    texts = {
        "teacher": {"kind": "pretrained", "model": str(text_model)},
        "distillation": {"kind": "word_vectors", "tokenizer": str(text_model), "width": 8},
    }
    for name, text in texts.items():
        content[name]["backbone"] |= {"text": text, "image": image, "dimension": 32}
        content[name]["schedule"] |= {"steps": 12, "batch_size": 64, "checkpoint_every": 4, "log_every": 2}
    content["distillation"]["matryoshka_dimensions"] = [32, 16]
    content["validation"] |= {"min_image_side": 4}
    for variant, least in zip(content["export"]["variants"], (0.999, 0.5), strict=True):
        variant["parity_cosine"] = least
    content["promotion"] |= {"floors": {"overall": 0.0}, "margin": 0.05, "max_tie_rate": 1.0, "min_parity_cosine": 0.5}
    content["promotion"] |= {"min_rank_agreement": 0.0, "max_slowdown": 3.0}
    (line.root / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")

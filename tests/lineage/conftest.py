"""Real git and DVC repositories with one stage each, whose script a test chooses."""

import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from components import lineage

PIPELINE = """
stages:
  first:
    cmd: python first.py
    deps: [data, first.py]
    params: [first]
    outs: [artifacts/first]
    metrics: [{artifacts/runs/first.json: {cache: false}}]
"""
STAGE = """
import json, pathlib
out = pathlib.Path("artifacts/first")
partial = out.with_name(".first.partial")
partial.parent.mkdir(parents=True, exist_ok=True)
partial.write_text("result")
partial.replace(out)
runs = pathlib.Path("artifacts/runs")
runs.mkdir(exist_ok=True)
(runs / "first.json").write_text(json.dumps({"run_id": "run-of-first"}))
print("first is done")
"""


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    (root / "params.yaml").write_text("first: {steps: 1}\n")
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "first.py").write_text(STAGE)
    (root / "data").mkdir()
    (root / "data" / "rows.txt").write_text("one\n")
    lineage.start_repository(root, print)
    lineage.add(root)
    return root


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "workspace"))


@pytest.fixture
def script(workspace: Path) -> Callable[[str], None]:
    """Replaces the stage's script."""

    def replace(text: str) -> None:
        (workspace / "first.py").write_text(textwrap.dedent(text))

    return replace

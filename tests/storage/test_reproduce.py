"""A version made again by a real git, a real DVC and the line of its commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cli.main import app
from components import lineage
from components.errors import UsageError
from tests.storage.conftest import Rounds

pytestmark = [pytest.mark.system("git"), pytest.mark.slow]


def reproduced(rounds: Rounds, version: str, *more: str) -> tuple[int, Any]:
    ended = CliRunner().invoke(app, ["reproduce", version, "--json", *more], catch_exceptions=False)
    return ended.exit_code, json.loads(ended.stdout.splitlines()[-1])


def test_a_version_comes_out_the_same_whatever_the_workspace_is_like_now(
    rounds: Rounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rounds.root)
    first = rounds.register(1)
    train = rounds.root / "train.py"
    train.write_text(train.read_text().replace("20_000", "30_000"))
    rounds.change(train={"seed": 2})  # neither is committed: the round keeps the difference
    lineage.reproduce(rounds.root, "train")
    second = rounds.log()
    train.write_text("raise SystemExit('not the code of then')\n")
    registered, cached = rounds.tracked.client.search_model_versions(), rounds.cached()

    code, said = reproduced(rounds, first, "--into", str(tmp_path / "again"))
    assert (code, said["equal"], said["dirty"], said["inputs"]) == (0, True, False, [])
    assert said["artifacts"] == {"artifacts/bundle": True, "artifacts/scores": True}
    weights = (tmp_path / "again" / "artifacts" / "bundle" / "version" / "weights.bin").read_bytes()
    assert weights == rounds.bundle(first, tmp_path / "fetched") and len(weights) == 160_000

    code, said = reproduced(rounds, second)
    assert (code, said["equal"], said["dirty"]) == (0, True, True)
    assert rounds.tracked.client.search_model_versions() == registered and rounds.cached() == cached
    trees = subprocess.check_output(["git", "worktree", "list"], text=True).splitlines()
    assert [Path(tree.split()[0]) for tree in trees] == [rounds.root, tmp_path / "again"]


def test_another_seed_comes_out_different_and_the_score_says_how_much(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rounds.root)
    version = rounds.register(1)
    monkeypatch.setattr("components.lineage.worktree.prepare", lambda workspace: _seed(workspace, 2))
    code, said = reproduced(rounds, version)
    assert (code, said["equal"]) == (1, False)
    assert said["artifacts"] == {"artifacts/bundle": False, "artifacts/scores": False}
    then, now = said["scores"]["student"]["overall"]
    assert (then, now) == tuple(float(np.random.default_rng(seed).uniform()) for seed in (1, 2))


def _seed(workspace: Path, seed: int) -> None:
    (workspace / "params.yaml").write_text(f"train: {{seed: {seed}}}\n")


def test_what_was_not_kept_cannot_be_repeated(rounds: Rounds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(rounds.root)
    made_up = rounds.register_made_up(1)
    refused = CliRunner().invoke(app, ["reproduce", made_up])
    assert isinstance(refused.exception, UsageError) and "has not kept" in refused.exception.problem
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    version = rounds.register(1)
    full = CliRunner().invoke(app, ["reproduce", version, "--into", str(tmp_path / "full")])
    assert isinstance(full.exception, UsageError) and "is not empty" in full.exception.problem

"""`embedline deploy` and `embedline routes` on the command line: what they print, and what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from components.errors import EmbedlineError, UsageError
from serving.releases import canary
from serving.releases.judge import Judgement
from serving.releases.places import Place
from serving.routes import Routes, Target, write_routes
from tests.serving.releases.made_up import TargetStats

ROOT = Path(__file__).resolve().parents[2]
ROUTES = Routes(Target("embedder", 1), Target("challenger", 2), 0.25)


class Held:
    """A server that holds what the routes say."""

    url = "127.0.0.1:8000"

    def loaded(self, model: str) -> list[int]:
        return {"embedder": [1], "challenger": [2]}[model]


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)


def called(*arguments: str) -> str:
    ended = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("deploy", "2", "--canary", "0.1", "--shadow", "1"), "a canary or a shadow"),
        (("routes",), "no version is deployed here"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        called(*arguments)


def test_what_is_no_share_is_refused() -> None:
    assert CliRunner().invoke(app, ["deploy", "2", "--canary", "2"]).exit_code == 2


def test_routes_are_shown_with_the_report_of_the_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(".embedline")
    held: list[Place] = [Held()]  # type: ignore[list-item]
    monkeypatch.setattr("serving.releases.places.places", lambda *_: held)
    write_routes(home, ROUTES)
    canary.write_report(home, ROUTES, TargetStats(9, 0, [1.0]), TargetStats(3, 1, [2.0]), Judgement("keep", "too few"))
    said = json.loads(called("routes", "--json"))
    assert said["routes"]["canary"] == {"model": "challenger", "version": 2}
    assert said["servers"] == {"127.0.0.1:8000": {"embedder": [1], "challenger": [2]}}
    assert said["reports"]["canary"]["canary"]["errors"] == 1
    shown = called("routes")
    assert "Version 2 answers 25% of the users, as a canary." in shown
    assert "Canary report: keep: too few" in shown


def test_without_a_champion_nothing_is_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(EmbedlineError, match="has no version 2"):
        called("deploy", "2")

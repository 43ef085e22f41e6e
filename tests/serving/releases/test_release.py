"""A version is deployed, tried, promoted and withdrawn under constant requests, none of which fails."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.errors import EmbedlineError, Refused, UsageError
from components.registry import models, promotion
from serving import TritonServer
from serving.control import loaded
from serving.events import read_events
from serving.releases.canary import return_canary, watch_canary
from serving.releases.deploy import deploy, try_version
from serving.roles import roll_back, serve_versions
from serving.routes import STABLE, TRIAL, Routes, Target, read_routes
from tests.serving.releases.conftest import HOME, Workspace, traffic

pytestmark = pytest.mark.slow  # a server and the releases of several versions


def held(server: TritonServer) -> dict[str, list[int]]:
    return {model: loaded(server, model) for model in (STABLE, TRIAL)}


def kinds() -> list[str]:
    return [event["kind"] for event in read_events(HOME)]


def test_no_request_fails_over_canary_promotion_and_rollback(workspace: Workspace, own_server: TritonServer) -> None:
    assert read_routes(HOME) == Routes(Target(STABLE, 1))
    with traffic(workspace, own_server.url) as seen:
        deploy(HOME, 1)
        try_version(HOME, 2, "canary", 0.5)
        assert held(own_server) == {STABLE: [1], TRIAL: [2]}
        asked = len(seen.by_routes)
        while len(seen.by_routes) < asked + 40:
            time.sleep(0.05)
        assert set(seen.by_routes[asked:]) == {1, 2}
        assert set(seen.unnamed) == {1}, "who names no version gets the champion"
        workspace.promote(2)
        assert read_routes(HOME) == Routes(Target(STABLE, 2))
        assert held(own_server) == {STABLE: [1, 2], TRIAL: []}
        try_version(HOME, 3, "shadow", 1.0)
        began = time.monotonic()
        roll_back(HOME, "worse")
        seconds = time.monotonic() - began
        unnamed, asked = len(seen.unnamed), len(seen.by_routes)
        while min(len(seen.unnamed) - unnamed, len(seen.by_routes) - asked) < 5:
            time.sleep(0.05)
    assert seen.errors == []
    assert set(seen.unnamed[unnamed + 1 :]) == set(seen.by_routes[asked + 1 :]) == {1}, "also at a lower number"
    assert held(own_server) == {STABLE: [1], TRIAL: []}, "a rollback ends every trial"
    assert seconds < 10
    assert kinds() == [
        "deployed", "deployed", "canary_started", "promoted", "canary_returned", "shadow_started", "rolled_back",
        "shadow_ended",
    ]  # fmt: skip


def test_only_the_champion_is_deployed_without_a_trial(workspace: Workspace, own_server: TritonServer) -> None:
    with pytest.raises(Refused, match="version 2 is not the champion, version 1 is") as caught:
        deploy(HOME, 2)
    assert "--canary" in caught.value.remedy
    with pytest.raises(UsageError, match="no version 99"):
        try_version(HOME, 99, "canary", 0.1)
    with pytest.raises(UsageError, match="version 1 is the champion"):
        try_version(HOME, 1, "canary", 0.1)
    with pytest.raises(UsageError, match="version 2 is no canary"):
        try_version(HOME, 2, "canary", 0)
    assert held(own_server) == {STABLE: [1], TRIAL: []}
    assert models.role(workspace.tracked, "champion") == "1"


def spoil(workspace: Workspace, version: int, monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Makes the registry give another bundle than the registered one, as one whose runtime fails where it is served."""
    fetch = models.download

    def spoilt(tracked: object, number: str, to: Path) -> Path:
        folder = fetch(workspace.tracked, number, to)
        if int(number) == version:
            for name, text in files.items():
                (folder / "version" / f"{name}.py").write_text(text)
        return folder

    monkeypatch.setattr(models, "download", spoilt)


WRONG = """

class Wrong(TritonPythonModel):
    def execute(self, requests):
        return super().execute(requests)

    def initialize(self, args):
        super().initialize(args)
        encode = self.runtime.encode
        self.runtime.encode = lambda *rows: encode(*rows)[:, ::-1].copy()


TritonPythonModel = Wrong
"""


@pytest.mark.parametrize("promoted", [False, True])
def test_a_version_that_answers_wrongly_reaches_nobody(
    workspace: Workspace, own_server: TritonServer, monkeypatch: pytest.MonkeyPatch, promoted: bool
) -> None:
    """Wrong vectors, not a failure to load: nobody sees them, not even clients that name no version."""
    model = (workspace.bundles[3] / "version" / "model.py").read_text()
    spoil(workspace, 4, monkeypatch, model=model + WRONG)
    with traffic(workspace, own_server.url) as seen:
        with pytest.raises(EmbedlineError, match="answers other vectors") as caught:
            workspace.promote(4) if promoted else try_version(HOME, 4, "canary", 0.5)
        time.sleep(0.5)
    if promoted:
        promotion.rollback(workspace.tracked)
    assert "served as before: 1" in caught.value.problem
    assert seen.errors == []
    assert set(seen.unnamed) == set(seen.by_routes) == {1}
    assert held(own_server) == {STABLE: [1], TRIAL: []}
    assert read_routes(HOME) == Routes(Target(STABLE, 1))


def test_a_canary_is_returned_by_the_gateway_and_when_its_process_dies(
    workspace: Workspace, own_server: TritonServer
) -> None:
    assert return_canary(HOME, "none is there") is False
    try_version(HOME, 2, "canary", 0.5)
    assert watch_canary(HOME, own_server.url).verdict == "keep"
    assert return_canary(HOME, "too slow") is True
    assert read_routes(HOME) == Routes(Target(STABLE, 1))
    assert held(own_server)[TRIAL] == [2], "requests that are under way must not fail"
    assert read_events(HOME)[-1] | {"time": ""} == {
        "time": "", "kind": "canary_returned", "version": 2, "reason": "too slow",
    }  # fmt: skip
    try_version(HOME, 3, "canary", 0.5)
    assert held(own_server)[TRIAL] == [3], "the next release unloads it"
    known = HOME / "known_answers" / "3" / "examples.npy"
    right = known.read_bytes()
    known.write_bytes((HOME / "known_answers" / "1" / "examples.npy").read_bytes())
    judgement = watch_canary(HOME, own_server.url)
    known.write_bytes(right)
    assert judgement.verdict == "return"
    assert "other vectors" in judgement.reason
    assert read_routes(HOME).canary is None


def test_a_restarted_server_goes_on_with_the_trial_or_without_one_that_is_broken(
    workspace: Workspace, own_server: TritonServer
) -> None:
    try_version(HOME, 3, "canary", 0.5)
    own_server.stop()
    judgement = watch_canary(HOME, own_server.url)
    assert judgement.verdict == "keep"
    assert "stable does not answer either" in judgement.reason, "the canary is not to blame"
    with TritonServer.start(HOME, 0, 0, 0) as second:
        serve_versions(second, workspace.tracked)
        assert held(second) == {STABLE: [1], TRIAL: [3]}
    (HOME / "model_repository" / TRIAL / "3" / "model.py").write_text("raise RuntimeError('no such tower')\n")
    with TritonServer.start(HOME, 0, 0, 0) as third:
        serve_versions(third, workspace.tracked)
        assert held(third) == {STABLE: [1], TRIAL: []}
    assert read_routes(HOME) == Routes(Target(STABLE, 1))
    assert "no such tower" in read_events(HOME)[-1]["reason"]

"""Versions go to every server or to none, also to a Triton of somebody else, of which only the address is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.errors import EmbedlineError, Refused, UsageError
from serving import TritonEmbedder, TritonServer
from serving.control import loaded
from serving.releases import move as module
from serving.releases.deploy import deploy, release, try_version
from serving.releases.places import ADMIN_VARIABLE, Remote, address, places, uploaded
from serving.routes import STABLE, TRIAL, Routes, Target, read_routes
from tests.serving.releases.conftest import HOME, QUESTION, Foreign, Workspace


@pytest.fixture(autouse=True)
def no_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_ANSWERS", 0)


def held(server: Foreign) -> dict[str, list[int]]:
    return {model: Remote(server.url).loaded(model) for model in (STABLE, TRIAL)}


@pytest.mark.slow
def test_a_version_goes_to_a_server_of_others_and_to_ours_or_to_none(
    workspace: Workspace, own_server: TritonServer, foreign: Callable[..., Foreign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One walk, because every server takes seconds to start."""
    other = foreign(key="secret")
    urls = [f"http://{other.url}", own_server.url]
    with pytest.raises(Refused, match="wants a header") as caught:
        deploy(HOME, 1, urls)
    assert ADMIN_VARIABLE in caught.value.remedy
    monkeypatch.setenv(ADMIN_VARIABLE, "admin: secret")
    assert release(HOME, None, None, None, urls).servers == [own_server.url, other.url]
    assert try_version(HOME, 2, "canary", 0.5, urls).routes.canary == Target(TRIAL, 2)
    assert held(other) == {STABLE: [1], TRIAL: [2]}
    assert list(other.repository.iterdir()) == [], "the files travel with the load"
    for model, version in ((STABLE, 1), (TRIAL, 2)):
        answer = TritonEmbedder(other.url, model, version).encode([QUESTION])[0]
        np.testing.assert_allclose(answer, workspace.answer_of(version), atol=1e-5)

    closed = foreign("none")
    with pytest.raises(Refused, match="does not let others choose what it loads") as caught:
        try_version(HOME, 3, "canary", 0.5, [*urls, closed.url])
    assert "--model-control-mode=explicit" in caught.value.remedy
    with pytest.raises(EmbedlineError, match=r"no Triton answers at 127\.0\.0\.1:9"):
        try_version(HOME, 3, "canary", 0.5, [*urls, "127.0.0.1:9"])
    assert held(other) == {STABLE: [1], TRIAL: [2]}
    assert [loaded(own_server, model) for model in (STABLE, TRIAL)] == [[1], [2]]
    assert read_routes(HOME) == Routes(Target(STABLE, 1), Target(TRIAL, 2), 0.5)

    try_version(HOME, 2, "canary", 0, urls)
    assert held(other) == {STABLE: [1], TRIAL: []}


@pytest.mark.parametrize("url", ["", "host", "https://host:8000", "http://host:8000/v2", "host:port"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is no address of a Triton"):
        address(url)


def test_without_any_server_there_is_nothing_to_deploy_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no server runs here"):
        places(tmp_path, [])


def test_files_in_folders_are_uploaded_too(tmp_path: Path) -> None:
    (tmp_path / "version" / "tower").mkdir(parents=True)
    (tmp_path / "version" / "tower" / "a.onnx").write_bytes(b"graph")
    (tmp_path / "version" / "__pycache__").mkdir()
    (tmp_path / "version" / "__pycache__" / "model.pyc").write_bytes(b"")
    assert uploaded(tmp_path, 3) == [("file:3/tower/a.onnx", b"graph")]

"""What is known to be right is compared, and only the supervisor's own server is touched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.config import read
from components.errors import EmbedlineError
from serving import TritonServer, known_answers
from serving.supervisor.triton_process import TritonProcess

ROOT = Path(__file__).resolve().parents[3]
NO_REGISTRY: Any = None


@pytest.fixture
def triton(server: TritonServer) -> TritonProcess:
    process = TritonProcess(Path(server.home), read(ROOT / "params.yaml").serving, NO_REGISTRY)
    process.server = server
    return process


@pytest.fixture
def known(server: TritonServer, tmp_path: Path) -> Iterator[Path]:
    """The known answers of version 2, to be spoilt."""
    folder = known_answers.folder(server.repository, 2)
    shutil.copytree(folder, tmp_path / "kept")
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)


def test_every_example_of_the_champion_is_asked_in_turn(triton: TritonProcess) -> None:
    assert triton.champion() == 2
    for _ in range(3):
        triton.probe()
    assert triton.asked == 3


def test_other_vectors_are_found(triton: TritonProcess, known: Path) -> None:
    shutil.copy(known.with_name("1") / "examples.npy", known)
    with pytest.raises(EmbedlineError, match="version 2 answers example 0 with another vector"):
        triton.probe()


def test_without_known_answers_nothing_passes(triton: TritonProcess, known: Path) -> None:
    (known / "examples.npy").unlink()
    with pytest.raises(EmbedlineError, match="what version 2 must answer cannot be read"):
        triton.probe()


def test_a_server_that_somebody_else_started_is_left_alone(triton: TritonProcess, server: TritonServer) -> None:
    triton.server = replace(server, born=server.born - 1, pid=2**22 - 1)
    assert not triton.is_running
    with pytest.raises(EmbedlineError, match=f"runs already: process {server.pid}"):
        triton.restart()
    triton.stop()
    assert server.is_running and TritonServer.find(Path(server.home)) == server

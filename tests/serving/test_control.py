"""Versions change under traffic without an error, and a version that is not right never takes the others' place."""

from __future__ import annotations

import os
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from components.corpus.item import Item
from components.errors import EmbedlineError, UsageError
from monitoring import doctor
from serving import TritonEmbedder, TritonServer, deploy, probe, repository, serve
from serving.control import loaded
from serving.repository import served, versions
from serving.triton import ADMIN_HEADER

pytestmark = pytest.mark.slow  # a server whose models come and go


@contextmanager
def traffic(server: TritonServer, version: int) -> Iterator[list[str]]:
    """Asks the version without a pause; yields the list of the errors seen, which is complete at the end."""
    errors: list[str] = []
    over = threading.Event()

    def ask() -> None:
        embedder = TritonEmbedder(server.url, version=version)
        while not over.is_set():
            try:
                embedder.encode([Item(text="a sad cat")])
            except EmbedlineError as error:
                errors.append(error.problem)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=30)


def test_a_version_that_raises_leaves_the_old_ones_serving(server: TritonServer, copied_bundle: Path) -> None:
    (copied_bundle / "version" / "model.py").write_text("raise RuntimeError('no such tower')\n")
    with traffic(server, 1) as errors, pytest.raises(EmbedlineError, match="no such tower") as caught:
        deploy(server, copied_bundle, 3)
    assert "served as before: 1, 2" in caught.value.problem
    assert errors == []
    assert versions(server.repository) == served(server.repository) == [1, 2]
    assert [path.name for path in (server.repository / "embedder").glob(".*")] == []


def test_a_version_that_answers_other_vectors_is_withdrawn(server: TritonServer, copied_bundle: Path) -> None:
    expected = np.load(copied_bundle / "examples.npy")
    np.save(copied_bundle / "examples.npy", expected[:, ::-1])
    with traffic(server, 1) as errors, pytest.raises(EmbedlineError, match="answers other vectors"):
        deploy(server, copied_bundle, 3)
    assert errors == []
    assert versions(server.repository) == served(server.repository) == [1, 2]
    with pytest.raises(EmbedlineError):
        TritonEmbedder(server.url, version=3).encode([Item(text="cat")])


def test_the_served_set_changes_under_traffic_without_an_error(server: TritonServer) -> None:
    with traffic(server, 1) as errors:
        serve(server, [1])
        serve(server, [1, 2])
    assert errors == []
    serve(server, [2])
    with pytest.raises(EmbedlineError):
        TritonEmbedder(server.url, version=1).encode([Item(text="cat")])


def test_deploying_again_checks_again_and_another_content_is_refused(
    server: TritonServer, bundles: tuple[Path, Path]
) -> None:
    assert deploy(server, bundles[1], 2) == [1, 2]
    with pytest.raises(EmbedlineError, match="another content"):
        deploy(server, bundles[0], 2)
    assert probe(server.url, bundles[1], 2) > 0.999


def test_a_version_with_shorter_vectors_is_served_beside_the_others(server: TritonServer, small_bundle: Path) -> None:
    assert deploy(server, small_bundle, 4) == [1, 2, 4]
    assert [TritonEmbedder(server.url, version=number).dimension for number in (1, 4)] == [32, 16]


def test_a_version_whose_process_was_killed_is_healed(server: TritonServer, bundles: tuple[Path, Path]) -> None:
    for process in version_processes(server):
        os.kill(process, signal.SIGKILL)
    with pytest.raises(EmbedlineError, match=f"model process of embedder/1 has died on the server at {server.url}"):
        probe(server.url, bundles[0], 1)
    serve(server, [1, 2])
    assert all(probe(server.url, bundle, version) > 0.999 for version, bundle in enumerate(bundles, start=1))


def test_versions_that_were_never_added_cannot_be_served(server: TritonServer) -> None:
    for wanted in ([1, 99], []):
        with pytest.raises(UsageError):
            serve(server, wanted)
    assert served(server.repository) == [1, 2]


def test_a_first_version_that_fails_leaves_nothing(
    tmp_path: Path, bundles: tuple[Path, Path], copied_bundle: Path
) -> None:
    (copied_bundle / "version" / "model.py").write_text("raise RuntimeError('no such tower')\n")
    with TritonServer.start(tmp_path, 0, 0, 0) as empty:
        with pytest.raises(UsageError, match="nothing was ever deployed"):
            serve(empty, [1])
        with pytest.raises(EmbedlineError, match="served as before: nothing"):
            deploy(empty, copied_bundle, 1)
        assert list((empty.repository / "embedder").iterdir()) == []
        assert deploy(empty, bundles[0], 1) == [1]


def test_only_who_holds_the_key_may_load_models(server: TritonServer) -> None:
    request = urllib.request.Request(f"http://{server.url}/v2/repository/models/embedder/unload", b"{}")
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    assert caught.value.code == 403
    assert TritonEmbedder(server.url).encode([Item(text="cat")]).shape == (1, 32)


def version_processes(server: TritonServer) -> list[int]:
    """Returns the processes in which the server runs its model versions."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def test_the_doctor_reads_what_is_loaded_without_our_packages(server: TritonServer) -> None:
    state = Path(server.home) / "triton.json"
    assert sorted(doctor.loaded_versions(state) or []) == loaded(server) == [1, 2]
    assert (doctor.ADMIN_HEADER, doctor.SERVED_MODEL) == (ADMIN_HEADER, repository.MODEL)
    assert doctor.loaded_versions(state.with_name("no such server.json")) is None

"""The server starts tested or not at all, is found by other commands, and its end is noticed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.corpus.item import Item
from components.errors import EmbedlineError
from serving import TritonEmbedder, TritonServer, deploy, triton
from serving.environment import Environment
from serving.triton import choose_ports

ROOT = Path(__file__).parents[2]


def leftovers(home: Path) -> list[str]:
    """Returns the shared memory and the model processes of this home's server."""
    prefix = triton.memory_prefix(home)
    commands = (path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    return [path.name for path in Path("/dev/shm").glob(f"{prefix}*")] + [
        command.parent.name for command in commands if f"\0{prefix}".encode() in command.read_bytes()
    ]


def is_cleared(home: Path) -> bool:
    """Whether nothing is left within some seconds: a killed process takes a moment to go."""
    deadline = time.monotonic() + 60
    while leftovers(home) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not leftovers(home)


def test_the_server_is_found_and_a_second_start_is_refused(server: TritonServer) -> None:
    home = Path(server.home)
    assert TritonServer.find(home) == server
    assert (home / "triton.json").stat().st_mode & 0o077 == 0, "the state holds the key"
    with pytest.raises(EmbedlineError, match=f"runs already: process {server.pid}"):
        TritonServer.start(home, 0, 0, 0)
    assert server.is_running


def test_metrics_are_on_and_every_port_is_on_the_loopback_only(server: TritonServer) -> None:
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        assert b"nv_inference_request_success" in answer.read()
    listening = {
        tuple(line.split()[1].split(":"))
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    for port in (server.http_port, server.grpc_port, server.metrics_port):
        addresses = {address for address, listened in listening if int(listened, 16) == port}
        assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}, port
        assert addresses


def test_a_port_in_use_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            EmbedlineError, match=f"port {port}, wanted for Triton's gRPC endpoint, is in use"
        ) as caught:
            TritonServer.start(tmp_path, 0, port, 0)
    assert "serving.grpc_port" in caught.value.remedy
    assert TritonServer.find(tmp_path) is None


def test_one_port_for_two_endpoints_is_refused() -> None:
    (port,) = choose_ports({"HTTP": 0})
    with pytest.raises(EmbedlineError, match=f"port {port}"):
        choose_ports({"HTTP": port, "gRPC": port})


def test_a_killed_server_is_noticed_and_the_next_start_is_clean(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    with TritonServer.start(tmp_path, 0, 0, 0) as first:
        deploy(first, bundles[0], 1)
        embedder = TritonEmbedder(first.url, version=1)
        assert embedder.encode([Item(text="cat")]).shape == (1, 32)
        os.kill(first.pid, signal.SIGKILL)
        assert leftovers(tmp_path) != [], "Triton leaves its shared memory behind when it is killed"
        with pytest.raises(EmbedlineError, match="no Triton answers"):
            for _ in range(100):
                embedder.encode([Item(text="cat")])
                time.sleep(0.01)
        deadline = time.monotonic() + 30
        while first.is_running:  # its sockets are closed before it has ended
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (tmp_path / "triton.json").exists()
        assert TritonServer.find(tmp_path) is None
        assert not (tmp_path / "triton.json").exists(), "the state of a dead server is cleared away"
        assert is_cleared(tmp_path)
    with TritonServer.start(tmp_path, 0, 0, 0) as second:
        first.stop()
        assert TritonServer.find(tmp_path) == second, "who stops a dead server must not touch a later one"
    assert not second.is_running
    assert TritonServer.find(tmp_path) is None


STARTER = """
import sys, time
from pathlib import Path
from serving import TritonServer, deploy

with TritonServer.start(Path(sys.argv[1]), 0, 0, 0) as server:
    deploy(server, Path(sys.argv[2]), 1)
    print("deployed", flush=True)
    time.sleep(600)
"""


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path, bundles: tuple[Path, Path]) -> None:
    command = [sys.executable, "-c", STARTER, str(tmp_path), str(bundles[0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as starter:
        assert starter.stdout and starter.stdout.readline() == "deployed\n"
        server = TritonServer.find(tmp_path)
        time.sleep(1)
        assert server and server.is_running and len(leftovers(tmp_path)) >= 2, "while its starter lives, it stays"
        starter.kill()
    assert is_cleared(tmp_path), "its model process and shared memory go too"
    assert not server.is_running


HOLDER = """
import sys, time
from filelock import FileLock

with FileLock(sys.argv[1]):
    print(flush=True)
    time.sleep(60)
"""


def test_who_looks_for_a_server_clears_nothing_away_while_one_is_started(tmp_path: Path) -> None:
    dead = TritonServer(str(tmp_path), 2**22 - 1, 1, 1, 2, 3, "", "key", tested=True)
    dead._write_state()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "triton.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as starter:
        assert starter.stdout and starter.stdout.readline()
        assert TritonServer.find(tmp_path) is None
        assert (tmp_path / "triton.json").exists(), "it may be that of the next server any moment"
        starter.kill()
    assert TritonServer.find(tmp_path) is None
    assert not (tmp_path / "triton.json").exists()


def test_a_number_that_went_to_another_process_is_not_taken_for_the_server(server: TritonServer) -> None:
    impostor = replace(server, born=server.born - 1)
    assert server.is_running
    assert not impostor.is_running


def test_a_server_that_is_not_ready_in_time_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(EmbedlineError, match=r"not ready after 0\.1 s"):
        TritonServer.start(tmp_path, 0, 0, 0, startup_seconds=0.1)
    assert TritonServer.find(tmp_path) is None
    assert is_cleared(tmp_path)


def test_numpy_2_in_the_environment_is_caught_before_anything_is_served(
    tmp_path: Path, environment: Environment
) -> None:
    assert np.__version__.startswith("2."), "the test borrows the NumPy of the training environment"
    spoilt = Environment(tmp_path / "spoilt")
    venv.create(spoilt.home)
    shutil.rmtree(spoilt.packages)
    spoilt.packages.mkdir()
    numpy_2 = Path(np.__file__).parents[1]
    for package in environment.packages.iterdir():
        source = numpy_2 if package.name.startswith("numpy") else environment.packages
        if (source / package.name).exists():
            (spoilt.packages / package.name).symlink_to(source / package.name)
    with pytest.raises(EmbedlineError, match="does not read values right"):
        TritonServer.start(tmp_path / "workspace", 0, 0, 0, environment=spoilt)
    assert TritonServer.find(tmp_path / "workspace") is None


def test_a_server_that_reads_a_wrong_value_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Path(shutil.copytree(triton.SELF_TEST, tmp_path / "wrong"))
    model = wrong / "self_test" / "1" / "model.py"
    model.write_text(model.read_text().replace(".copy()", "[[0, 0, 2, 3]]"))
    monkeypatch.setattr(triton, "SELF_TEST", wrong)
    with pytest.raises(EmbedlineError, match=r"it was sent \[1.5, -2.25, .* and saw \[1.5, 1.5, "):
        TritonServer.start(tmp_path / "workspace", 0, 0, 0)
    assert TritonServer.find(tmp_path / "workspace") is None

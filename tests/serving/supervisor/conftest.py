"""A real `embedline serve` in a workspace whose registry knows two versions, and what a test may see of it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.registry import models, promotion, tracking
from components.scores import Model
from serving import TritonServer
from serving.events import read_events
from serving.supervisor import state
from tests.registry.made_up import verdicts
from tests.scores.made_up import scores, task_score
from tests.serving.test_triton import leftovers

ROOT = Path(__file__).resolve().parents[3]
COMMAND = (sys.executable, "-m", "cli.main", "serve", "--no-gateway")
SECONDS = 90


@dataclass
class Serving:
    """A running `embedline serve`; `notices` are the datagrams that it has sent to its service manager."""

    process: subprocess.Popen[str]
    root: Path
    notices: list[str] = field(default_factory=list)

    @property
    def home(self) -> Path:
        return self.root / ".embedline"

    @property
    def triton(self) -> TritonServer:
        found = TritonServer.find(self.home)
        assert found, "no Triton runs"
        return found

    @property
    def version(self) -> int | None:
        """The champion that the supervisor asks."""
        known = state.find(self.home)
        return known.version if known else None

    @property
    def said(self) -> str:
        return (self.root / "said").read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.home) if event["kind"] == kind]

    def kill_models(self) -> None:
        """Kills the processes that Triton computes the model in."""
        for name in leftovers(self.home):
            if name.isdigit():
                os.kill(int(name), signal.SIGKILL)

    def wait_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.said
            found = state.find(self.home)
            return bool(found and found.ready and found.pid == self.process.pid)  # not one that was killed

        wait_for(is_ready)

    def is_gone(self) -> bool:
        """Whether nothing that it has started is left."""
        return not leftovers(self.home) and TritonServer.find(self.home) is None


def wait_for(happens: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Returns what comes true within the seconds; fails the test if nothing does."""
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def registered(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose registry knows two bundles: version 1 is the champion, 2 the challenger."""
    root = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        tracked = tracking.prepare(root)
        round_ = tracking.start_round(tracked, {}, {})
        for number, bundle in enumerate(bundles, start=1):
            scored = scores(
                "", {"Set": task_score("retrieval", "IND", 0.5)}, model=Model("", f"model {number}", 4, None)
            )
            assert models.register(round_, bundle, scored, {}) == str(number)
            promotion.nominate(tracked, str(number))
            if number == 1:
                promotion.promote(tracked, "1", *verdicts(tracked, "1"))
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    ports = {f"{use}_port": 0 for use in ("http", "grpc", "metrics", "supervisor_metrics")}
    content["serving"] |= ports | {"probe_seconds": 0.5, "max_restarts": 2}
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    return root


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def start(root: Path, **options: Any) -> Serving:
    """Starts the command in the workspace; what it prints is in the file `said`, unless the options say otherwise."""
    with (root / "said").open("w") as said:
        given: dict[str, Any] = {
            "cwd": root,
            "env": environment(),
            "stdout": said,
            "stderr": said,
            "text": True,
        } | options
        return Serving(subprocess.Popen(COMMAND, **given), root)


@pytest.fixture
def root(registered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(registered, tmp_path / "workspace"))


@pytest.fixture(scope="module")
def lasting(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One supervisor for the tests that leave it healthy, started as systemd does."""
    root = Path(shutil.copytree(registered, tmp_path_factory.mktemp("lasting") / "workspace"))
    address = root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        serving = start(root, env=environment() | {"NOTIFY_SOCKET": str(address)})
        try:
            serving.wait_ready()
            manager.settimeout(SECONDS)
            serving.notices.append(manager.recv(4096).decode())  # it is sent after the state says so
            manager.setblocking(False)
            read_all(manager, serving.notices)
            yield serving
        finally:
            serving.process.terminate()
            assert serving.process.wait(SECONDS) == 0


def read_all(manager: socket.socket, notices: list[str]) -> None:
    while True:
        try:
            notices.append(manager.recv(4096).decode())
        except BlockingIOError:
            return

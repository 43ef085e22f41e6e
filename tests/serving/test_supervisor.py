"""The supervisor keeps the champion answering, takes all that it started with it, and gives up when nothing helps."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components.corpus import Item
from components.embedder.runtime import Runtime
from components.errors import EmbedlineError
from components.registry import Verdict, models, promotion, tracking
from components.scores import Model
from serving import TritonEmbedder, TritonServer
from serving.events import read_events
from serving.supervisor import state
from serving.triton import process_birth
from tests.scores.made_up import scores, task_score
from tests.serving.test_triton import leftovers

ROOT = Path(__file__).resolve().parents[2]
QUESTION = Item(text="a sad cat")
SECONDS = 60


@dataclass
class Serving:
    """A running `embedline serve` in a workspace of its own."""

    process: subprocess.Popen[str]
    root: Path

    @property
    def home(self) -> Path:
        return self.root / ".embedline"

    @property
    def triton(self) -> TritonServer:
        found = TritonServer.find(self.home)
        assert found
        return found

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.home) if event["kind"] == kind]

    def stubs(self) -> list[int]:
        return [int(name) for name in leftovers(self.home) if name.isdigit()]

    def said(self) -> str:
        return (self.root / "said").read_text()


def wait_for(happens: Callable[[], Any], seconds: float = SECONDS, every: float = 0.05) -> Any:
    """Returns what is true within the seconds; fails the test if nothing is."""
    deadline = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(every)
    return found


@pytest.fixture(scope="module")
def registered(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose registry knows two bundles: version 1 is the champion."""
    root = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        tracked = tracking.prepare(root)
        round_ = tracking.start_round(tracked, {}, {})
        for number, bundle in enumerate(bundles, start=1):
            scored = scores("", {"Set": task_score("retrieval", "IND", 0.5)}, model=Model("", f"m{number}", 4, None))
            assert models.register(round_, bundle, scored, {}) == str(number)
        promotion.nominate(tracked, "1")
        fingerprint = json.loads((bundles[0] / "bundle.json").read_text())["fingerprint"]
        quality, infrastructure = (
            Verdict("quality", "m1", None, (), (), {}), Verdict("infrastructure", fingerprint, None, (), (), {}),
        )  # fmt: skip
        promotion.promote(tracked, "1", quality, infrastructure)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    ports = {f"{use}_port": 0 for use in ("http", "grpc", "metrics", "supervisor_metrics")}
    content["serving"] |= ports | {"probe_seconds": 0.5}
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    return root


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def start(root: Path, **options: Any) -> Serving:
    with (root / "said").open("w") as said:
        command = [sys.executable, "-m", "cli.main", "serve"]
        options = {"env": environment(), "stdout": said, "stderr": said} | options
        return Serving(subprocess.Popen(command, cwd=root, text=True, **options), root)


def ready(serving: Serving) -> Serving:
    def is_ready() -> bool:
        assert serving.process.poll() is None, serving.said()
        found = state.find(serving.home)
        return bool(found and found.ready)

    wait_for(is_ready)
    return serving


@pytest.fixture
def root(registered: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(registered, tmp_path / "workspace"))


@pytest.fixture
def serving(root: Path) -> Iterator[Serving]:
    """A supervisor of the test's own, which the test may kill."""
    started = start(root)
    yield ready(started)
    started.process.terminate()
    started.process.wait(SECONDS)


@pytest.fixture(scope="module")
def lasting(registered: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A supervisor for the tests that leave it healed."""
    started = start(Path(shutil.copytree(registered, tmp_path_factory.mktemp("lasting") / "workspace")))
    yield ready(started)
    started.process.terminate()
    started.process.wait(SECONDS)


def answers_rightly(url: str, bundle: Path) -> bool:
    expected = Runtime(bundle / "version", threads=1).encode([QUESTION.text], [None], [None])
    with suppress(EmbedlineError):
        return bool(np.allclose(TritonEmbedder(url, timeout_seconds=5).encode([QUESTION]), expected, atol=1e-5))
    return False


def test_a_killed_model_process_is_healed_by_loading_again(lasting: Serving, bundles: tuple[Path, Path]) -> None:
    before = lasting.triton
    for pid in lasting.stubs():
        os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: lasting.events("healed"))
    assert answers_rightly(before.url, bundles[0])
    assert time.monotonic() - began < 20
    assert [event["how"] for event in lasting.events("healed")] == ["reload"]
    assert lasting.events("unhealthy")
    assert lasting.triton == before, "the server itself was not restarted"


def test_a_killed_triton_comes_back_on_the_same_ports(lasting: Serving, bundles: tuple[Path, Path]) -> None:
    before, healed = lasting.triton, len(lasting.events("healed"))
    os.kill(before.pid, signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: len(lasting.events("healed")) > healed)
    assert answers_rightly(before.url, bundles[0])
    assert time.monotonic() - began < 30
    assert lasting.events("healed")[-1]["how"] == "restart"
    after = lasting.triton
    ports = [(each.http_port, each.grpc_port, each.metrics_port) for each in (before, after)]
    assert ports[0] == ports[1] and before.pid != after.pid

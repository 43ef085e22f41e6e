"""A workspace whose registry knows four versions, and servers: its own, and Tritons that somebody else has started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.corpus import Item
from components.embedder.runtime import Runtime
from components.errors import EmbedlineError
from components.registry import models, promotion, tracking
from components.registry.tracking import Tracking
from components.scores import Model
from serving import TritonEmbedder, TritonServer
from serving.environment import Environment
from serving.roles import follow_roles, serve_versions
from serving.routes import STABLE, FollowedRoutes, route
from serving.triton import choose_ports
from tests.registry.made_up import verdicts
from tests.scores.made_up import scores, task_score
from tests.serving.conftest import make_bundle

ROOT = Path(__file__).resolve().parents[3]
HOME = Path(".embedline")
VERSIONS = 4
QUESTION = Item(text="a sad cat")


@dataclass(frozen=True)
class Workspace:
    """The present folder. Version 1 is champion; the others are registered."""

    bundles: list[Path]
    tracked: Tracking

    def answer_of(self, version: int) -> np.ndarray:
        """What the version answers in process."""
        runtime = Runtime(self.bundles[version - 1] / "version", threads=1)
        answer: np.ndarray = runtime.encode([QUESTION.text], [None], [None])[0]
        return answer

    def promote(self, version: int) -> None:
        """Does what a round does after the gate."""
        make_champion(self.tracked, str(version))
        follow_roles(HOME, self.tracked)


def make_champion(tracked: Tracking, version: str) -> None:
    promotion.nominate(tracked, version)
    promotion.promote(tracked, version, *verdicts(tracked, version))


@pytest.fixture(scope="session")
def all_bundles(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("more_bundles")
    return [*bundles, *(make_bundle(folder / str(seed), seed) for seed in range(3, VERSIONS + 1))]


@pytest.fixture(scope="session")
def registered(all_bundles: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace that every other one starts as a copy of: creating MLflow's database takes seconds."""
    root = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        tracked = tracking.prepare(root)
    round_ = tracking.start_round(tracked, {}, {})
    for number, bundle in enumerate(all_bundles, start=1):
        scored = scores("", {"Set": task_score("retrieval", "IND", 0.5)}, model=Model("", f"model {number}", 4, None))
        assert models.register(round_, bundle, scored, {}) == str(number)
    make_champion(tracked, "1")
    shutil.copy(ROOT / "params.yaml", root)
    return root


@contextmanager
def workspace_in(folder: Path, registered: Path, bundles: list[Path]) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        patch.chdir(shutil.copytree(registered, folder / "workspace"))
        yield Workspace(bundles, tracking.prepare(Path()))


@pytest.fixture(scope="module")
def workspace(
    registered: Path, all_bundles: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workspace]:
    with workspace_in(tmp_path_factory.mktemp("module"), registered, all_bundles) as made:
        yield made


@pytest.fixture(scope="module")
def own_server(workspace: Workspace) -> Iterator[TritonServer]:
    """The server of the workspace, as `embedline serve` runs it."""
    with TritonServer.start(HOME, 0, 0, 0) as running:
        assert serve_versions(running, workspace.tracked) == [1]
        yield running


@dataclass
class Foreign:
    """A Triton that this project knows the address of, and nothing else."""

    url: str
    repository: Path
    process: Any = field(repr=False, default=None)


@pytest.fixture
def foreign(environment: Environment, tmp_path: Path) -> Iterator[Callable[..., Foreign]]:
    """Starts Tritons on empty repositories of their own."""
    started: list[Foreign] = []

    def start(mode: str = "explicit", key: str | None = None) -> Foreign:
        repository = tmp_path / f"foreign{len(started)}"
        repository.mkdir()
        http, grpc, metrics = choose_ports({"HTTP": 0, "gRPC": 0, "metrics": 0})
        command = [
            str(environment.server),
            f"--model-repository={repository}",
            f"--backend-directory={environment.backends}",
            f"--backend-config=python,shm-region-prefix-name=foreign_{os.getpid()}_{http}_",
            f"--model-control-mode={mode}",
            *(f"--{name}-port={port}" for name, port in (("http", http), ("grpc", grpc), ("metrics", metrics))),
            *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
            *([f"--http-restricted-api=model-repository:admin={key}"] if key else []),
            "--exit-timeout-secs=2",
        ]
        with (tmp_path / f"foreign{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment.variables(), stdout=log, stderr=log)
        made = Foreign(f"127.0.0.1:{http}", repository, process)
        started.append(made)
        wait_ready(made)
        return made

    yield start
    for server in started:
        server.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(10)
        server.process.kill()


def wait_ready(server: Foreign) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(f"http://{server.url}/v2/health/ready", timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError("the other Triton did not get ready")


@dataclass
class Traffic:
    """What clients saw: the versions that answered, in order, and the errors."""

    by_routes: list[int] = field(default_factory=list)
    unnamed: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def traffic(workspace: Workspace, url: str, users: int = 20) -> Iterator[Traffic]:
    """Asks all the time, by the routes as a gateway does and without a version; complete at the end."""
    seen, over = Traffic(), threading.Event()
    known = np.stack([workspace.answer_of(version) for version in range(1, VERSIONS + 1)])
    followed = FollowedRoutes(HOME.resolve())

    def version_of(answer: np.ndarray) -> int:
        cosines = known @ answer
        assert cosines.max() > 0.999
        return int(cosines.argmax()) + 1

    def ask_by_routes() -> None:
        number = 0
        while not over.is_set():
            number += 1
            target = route(followed.read(), f"user {number % users}")
            answer = TritonEmbedder(url, target.model, target.version).encode([QUESTION])[0]
            assert version_of(answer) == target.version
            seen.by_routes.append(target.version)

    def ask_without_version() -> None:
        while not over.is_set():
            seen.unnamed.append(version_of(TritonEmbedder(url, STABLE).encode([QUESTION])[0]))

    def until_over(ask: Callable[[], None]) -> None:
        while not over.is_set():
            try:
                ask()
            except (EmbedlineError, AssertionError) as error:
                seen.errors.append(repr(error))
                time.sleep(0.05)

    threads = [threading.Thread(target=until_over, args=(ask,)) for ask in (ask_by_routes, ask_without_version)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=30)

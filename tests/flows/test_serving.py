"""A running server follows the roles: a challenger answers nobody before its promotion, and a killed command leaves no
server behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from components import config as configuration
from components.corpus import Item
from components.embedder.runtime import Runtime
from components.errors import EmbedlineError, Refused, UsageError
from components.export.config import Serving
from components.registry import models, promotion, tracking
from components.registry.tracking import Run, Tracking
from components.scores import Model
from components.workspace import BUNDLE, ONNX
from flows import retrain
from monitoring import doctor
from serving import TritonEmbedder, TritonServer, repository
from serving.container import print_container
from serving.control import loaded
from serving.roles import serve_versions
from serving.triton import process_birth
from tests.registry.made_up import verdicts
from tests.scores.made_up import scores, task_score
from tests.serving.conftest import make_bundle
from tests.serving.test_triton import leftovers

pytestmark = pytest.mark.slow  # servers that rounds start and stop

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(".embedline")
QUESTION = Item(text="a sad cat")
END_SECONDS = 60


@dataclass(frozen=True)
class Workspace:
    """A folder whose registry knows two bundles, the versions 1 (champion) and 2 (challenger)."""

    bundles: tuple[Path, Path]
    tracked: Tracking
    round_: Run

    def answer_of(self, version: int) -> np.ndarray:
        """What the version answers in process."""
        runtime = Runtime(self.bundles[version - 1] / "version", threads=1)
        answer: np.ndarray = runtime.encode([QUESTION.text], [None], [None])[0]
        return answer

    def bless(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Runs the last part of a round, after the quality gate, without Prefect; these bundles were never scored."""
        monkeypatch.setattr(retrain, "compare_with_champion", lambda *_: verdicts(self.tracked, "2")[0])
        made_up = scores("", {"Set": task_score("retrieval", "IND", 0.5)})
        monkeypatch.setattr(retrain, "served_scores", lambda _: made_up)
        for skipped in ("publish", "publish_card", "require_scored"):
            monkeypatch.setattr(retrain, skipped, lambda *_: None)
        for task in ("try_on_triton", "promote"):
            monkeypatch.setattr(retrain, task, getattr(retrain, task).fn)
        return retrain.bless(configuration.read(ROOT / "params.yaml"), self.tracked, self.round_, "2", "")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder / "one", seed=1), make_bundle(folder / "two", seed=2)


@pytest.fixture(scope="module")
def registered(bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace that every other one starts as a copy of: creating MLflow's database takes seconds."""
    root = tmp_path_factory.mktemp("registered")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        tracked = tracking.prepare(root)
    round_ = tracking.start_round(tracked, {}, {})
    for number, bundle in enumerate(bundles, start=1):
        known = Model("", f"model {number}", 4, None)
        scored = scores("", {"Set": task_score("retrieval", "IND", 0.5)}, model=known)
        assert models.register(round_, bundle, scored, {}) == str(number)
        promotion.nominate(tracked, str(number))
        if number == 1:
            promotion.promote(tracked, "1", *verdicts(tracked, "1"))
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(bundles[1], root / BUNDLE)
    return root


@pytest.fixture
def workspace(
    registered: Path, bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(shutil.copytree(registered, tmp_path / "workspace"))
    write_parity(0.999)
    tracked = tracking.prepare(Path())
    return Workspace(bundles, tracked, tracking.start_round(tracked, {}, {}))


def write_parity(cosine: float) -> None:
    ONNX.mkdir(parents=True, exist_ok=True)
    (ONNX / "parity.json").write_text(json.dumps({"int8": {"minimum": cosine, "rank_agreement_10": 1.0}}))


def set_serving(**values: int) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["serving"] |= values
    Path("params.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def server(workspace: Workspace) -> Iterator[TritonServer]:
    """The server of the workspace, as `embedline serve` runs it."""
    with TritonServer.start(HOME, 0, 0, 0) as running:
        assert serve_versions(running, workspace.tracked) == [1]
        yield running


@pytest.fixture
def answers(server: TritonServer) -> Iterator[list[np.ndarray]]:
    """What a client that names no version is answered all the time."""
    got: list[np.ndarray] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            got.append(TritonEmbedder(server.url).encode([QUESTION])[0])
            time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()
    yield got
    over.set()
    thread.join()


def test_a_challenger_that_the_gate_refuses_never_answers(
    workspace: Workspace, server: TritonServer, answers: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parity(0.5)
    with pytest.raises(Refused, match="parity_cosine"):
        workspace.bless(monkeypatch)
    assert loaded(server) == repository.served(server.repository) == [1]
    asked = len(answers)
    while len(answers) < asked + 3:
        time.sleep(0.02)
    np.testing.assert_allclose(answers, np.tile(workspace.answer_of(1), (len(answers), 1)), atol=1e-5)
    assert abs(workspace.answer_of(1) - workspace.answer_of(2)).max() > 0.1, "the versions must differ"


def test_a_challenger_that_does_not_load_leaves_the_server_alone(
    workspace: Workspace, server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (BUNDLE / "version" / "model.py").write_text("raise RuntimeError('no such tower')\n")
    with pytest.raises(EmbedlineError, match="no such tower"):
        workspace.bless(monkeypatch)
    assert loaded(server) == repository.served(server.repository) == [1]


def test_the_server_follows_a_promotion(
    workspace: Workspace, server: TritonServer, answers: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = workspace.bless(monkeypatch)
    assert roles == {"champion": "2", "challenger": None, "previous": "1"}
    assert loaded(server) == [1, 2]
    for got, version in ((answers[0], 1), (TritonEmbedder(server.url).encode([QUESTION])[0], 2)):
        np.testing.assert_allclose(got, workspace.answer_of(version), atol=1e-5)


def test_a_round_brings_the_server_to_the_roles_of_one_that_was_killed(
    workspace: Workspace, server: TritonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    promotion.promote(workspace.tracked, "2", *verdicts(workspace.tracked, "2"))
    assert loaded(server) == [1], "killed between the promotion and the server"
    workspace.bless(monkeypatch)
    assert loaded(server) == [1, 2]


@pytest.mark.parametrize(
    ("sign", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, None), (signal.SIGKILL, -9)]
)
def test_the_command_that_serves_takes_its_server_with_it(workspace: Workspace, sign: int, code: int | None) -> None:
    set_serving(http_port=0, grpc_port=0, metrics_port=0, supervisor_metrics_port=0)
    command = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "serve", "--no-gateway"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert command.stdout is not None
    said = ""
    while "Triton answers" not in said and (line := command.stdout.readline()):
        said += line
    server = TritonServer.find(HOME)
    assert server, said
    assert TritonEmbedder(server.url).encode([QUESTION]).shape == (1, 32)
    os.kill(command.pid, sign)
    ended = command.wait(END_SECONDS)
    deadline = time.monotonic() + END_SECONDS
    while (process_birth(server.pid) or leftovers(HOME.resolve())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process_birth(server.pid) is None
    assert leftovers(HOME.resolve()) == []
    assert TritonServer.find(HOME) is None
    assert code is None or ended == code


@pytest.mark.usefixtures("workspace")
def test_a_port_in_use_is_named_by_the_command_that_serves() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        set_serving(http_port=port, grpc_port=0, metrics_port=0, supervisor_metrics_port=0)
        command = [sys.executable, "-m", "cli.main", "serve"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        failed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=END_SECONDS)
    assert failed.returncode == 1
    assert f"port {port}" in failed.stderr and "Traceback" not in failed.stderr


@pytest.mark.usefixtures("workspace")
def test_the_champion_is_laid_out_for_a_container_under_its_number() -> None:
    settings = configuration.read_section(ROOT / "params.yaml", Serving)
    assert "--load-model=embedder --load-model=image_tower --load-model=text_tower" in print_container(
        HOME, settings, "onnxruntime"
    )
    assert (HOME / "container" / "onnxruntime" / "text_tower" / "1" / "text.onnx").is_file()
    assert f"{(HOME / 'model_repository').resolve()}:/models:ro" in print_container(HOME, settings, None)
    with pytest.raises(UsageError, match=r"no engine of image.onnx"):
        print_container(HOME, settings, "tensorrt")


def test_reconcile_brings_the_server_to_the_roles(workspace: Workspace, server: TritonServer) -> None:
    promotion.promote(workspace.tracked, "2", *verdicts(workspace.tracked, "2"))
    assert "the server answers by version 1, champion is version 2" in doctor.roles(Path()).detail
    said = CliRunner().invoke(app, ["reconcile"])
    assert said.exit_code == 0, said.output
    assert loaded(server) == [1, 2] and doctor.roles(Path()).ok

"""The supervisor keeps the champion answering, takes all that it started with it, and gives up when nothing helps."""

from __future__ import annotations

import os
import pty
import signal
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import yaml

from components.corpus import Item
from components.embedder.runtime import Runtime
from components.errors import EmbedlineError
from components.registry import promotion, tracking
from serving import TritonEmbedder
from serving.roles import follow_roles, roll_back
from serving.supervisor import state
from serving.triton import process_birth
from tests.registry.made_up import verdicts
from tests.serving.supervisor.conftest import SECONDS, Serving, start, wait_for

pytestmark = pytest.mark.slow  # servers are killed and come back

QUESTION = Item(text="a sad cat")


def answers_as(url: str, bundle: Path) -> bool:
    expected = Runtime(bundle / "version", threads=1).encode([QUESTION.text], [None], [None])
    with suppress(EmbedlineError):
        return bool(np.allclose(TritonEmbedder(url, timeout_seconds=5).encode([QUESTION]), expected, atol=1e-5))
    return False


def test_systemd_is_notified_when_it_answers(lasting: Serving) -> None:
    assert lasting.notices[0].startswith(f"READY=1\nSTATUS=version 1 answers on {lasting.triton.url}")
    assert set(lasting.notices[1:]) <= {"WATCHDOG=1"}


def test_a_killed_model_process_is_healed_by_loading_again(lasting: Serving, bundles: tuple[Path, Path]) -> None:
    before = lasting.triton
    lasting.kill_models()
    began = time.monotonic()
    wait_for(lambda: lasting.events("healed"))
    assert answers_as(before.url, bundles[0])
    assert time.monotonic() - began < SECONDS
    assert [event["how"] for event in lasting.events("healed")] == ["reload"]
    assert "has died" in lasting.events("unhealthy")[0]["problem"]
    assert lasting.triton == before, "the server itself was not restarted"


def test_a_killed_triton_comes_back_on_the_same_ports(lasting: Serving, bundles: tuple[Path, Path]) -> None:
    before, healed = lasting.triton, len(lasting.events("healed"))
    os.kill(before.pid, signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: len(lasting.events("healed")) > healed)
    assert answers_as(before.url, bundles[0])
    assert time.monotonic() - began < SECONDS
    assert lasting.events("healed")[-1]["how"] == "restart"
    after = lasting.triton
    ports = [(each.http_port, each.grpc_port, each.metrics_port) for each in (before, after)]
    assert ports[0] == ports[1] and before.pid != after.pid


def test_metrics_and_state_count_what_was_done(lasting: Serving) -> None:
    known = state.find(lasting.home)
    assert known and known.healthy == {"triton": True} and known.metrics_url
    with urllib.request.urlopen(known.metrics_url, timeout=10) as answer:
        metrics = answer.read().decode()
    for how, count in (("reload", known.reloads), ("restart", known.restarts)):
        assert count == sum(event["how"] == how for event in lasting.events("healed"))
        assert (f'embedline_supervisor_heals_total{{how="{how}",process="triton"}} {count}.0' in metrics) == (count > 0)
    assert 'embedline_supervisor_healthy{process="triton"} 1.0' in metrics


def test_a_promotion_and_a_rollback_by_another_command_stay(
    lasting: Serving, bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(lasting.root)
    unhealthy = lasting.events("unhealthy")
    tracked = tracking.prepare(lasting.root)
    promotion.promote(tracked, "2", *verdicts(tracked, "2"))
    follow_roles(lasting.home, tracked)
    for version in (2, 1):
        wait_for(lambda version=version: lasting.version == version)  # type: ignore[misc]
        time.sleep(1.5)  # some probes
        assert answers_as(lasting.triton.url, bundles[version - 1])
        if version == 2:
            roll_back(lasting.home, "")
    assert lasting.events("unhealthy") == unhealthy


def test_a_closed_terminal_ends_all(root: Path) -> None:
    terminal, end = pty.openpty()
    serving = start(root, stdin=end, stdout=end, stderr=end, preexec_fn=lambda: take_terminal(end))
    os.close(end)
    serving.wait_ready()
    os.close(terminal)
    assert serving.process.wait(SECONDS) == 0
    assert serving.is_gone()


def take_terminal(end: int) -> None:
    import fcntl
    import termios

    os.setsid()
    fcntl.ioctl(end, termios.TIOCSCTTY, 0)


def test_what_never_answers_again_is_given_up(root: Path) -> None:
    serving = start(root)
    serving.wait_ready()
    triton = serving.triton
    model = triton.repository / "embedder" / "1" / "model.py"
    model.write_text("raise RuntimeError('the weights are gone')\n")
    serving.kill_models()
    assert serving.process.wait(SECONDS) == 1
    assert "triton does not answer after 2 restarts" in serving.said
    assert "the weights are gone" in serving.said and "embedline rollback" in serving.said
    assert "Traceback" not in serving.said
    assert serving.events("gave_up") and not serving.events("healed")
    assert serving.is_gone() and state.find(serving.home) is None


def test_after_a_kill_nothing_is_left_and_the_next_start_is_clean(root: Path, bundles: tuple[Path, Path]) -> None:
    content = yaml.safe_load((root / "params.yaml").read_text())
    first = start(root)
    first.wait_ready()
    triton = first.triton
    content["serving"] |= {"http_port": triton.http_port, "grpc_port": triton.grpc_port}
    (root / "params.yaml").write_text(yaml.safe_dump(content))
    first.process.kill()
    second = start(root)
    second.wait_ready()
    wait_for(lambda: process_birth(triton.pid) != triton.born)
    assert second.triton.url == triton.url and answers_as(triton.url, bundles[0])
    second.process.send_signal(signal.SIGINT)
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(SECONDS) in (0, 130)
    assert second.is_gone(), "a second signal does not disturb the end"

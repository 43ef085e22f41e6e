"""The loop: when it asks, when it believes that something is wrong, and what it does and says then."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.errors import EmbedlineError
from serving.events import read_events
from serving.supervisor import loop
from serving.supervisor.decision import Policy
from serving.supervisor.loop import Watch
from serving.supervisor.metrics import Metrics


class Process:
    """A process that answers, or not, as the test says."""

    name = "process"
    reloadable = True
    is_running = True

    def __init__(self, folder: Path) -> None:
        self.log = folder / "process.log"
        self.answers = True
        self.helps: set[str] = set()
        self.done: list[str] = []

    def probe(self) -> None:
        self.done.append("probe")
        if not (self.answers and self.is_running):
            raise EmbedlineError("no answer", "")

    def reload(self) -> None:
        self._heal("reload")

    def restart(self) -> None:
        self._heal("restart")

    def _heal(self, how: str) -> None:
        self.done.append(how)
        if how in self.helps:
            self.answers = self.is_running = True


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


@pytest.fixture
def watch(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    monkeypatch.setattr(loop, "CONFIRM_SECONDS", 0.0)
    monkeypatch.setattr("serving.supervisor.decision.FIRST_WAIT_SECONDS", 0.0)
    return Watch(tmp_path, [process], Policy(3, 100), 0.05, Metrics(), lambda _: None, lambda: None)


def look(watch: Watch, times: int = 1) -> None:
    for _ in range(times):
        watch.look(watch.watched[0])


def kinds(watch: Watch) -> list[str]:
    return [event["kind"] for event in read_events(watch.home)]


def count(watch: Watch, name: str, **labels: str) -> float | None:
    return watch.metrics.registry.get_sample_value(f"embedline_supervisor_{name}", {"process": "process", **labels})


def test_it_is_asked_no_more_often_than_set(watch: Watch, process: Process) -> None:
    look(watch, 10)
    assert process.done == ["probe"]
    time.sleep(0.06)
    look(watch)
    assert process.done == ["probe", "probe"]
    assert count(watch, "probes_total", result="passed") == 2 and count(watch, "healthy") == 1


def test_one_failure_is_confirmed_before_anything_is_done(watch: Watch, process: Process) -> None:
    process.answers = False
    look(watch)
    assert process.done == ["probe"]
    process.answers = True
    look(watch)
    assert process.done == ["probe", "probe"] and kinds(watch) == []


def test_a_reload_comes_first_then_a_restart(watch: Watch, process: Process) -> None:
    process.answers, process.helps = False, {"restart"}
    look(watch, 3)
    assert [what for what in process.done if what != "probe"] == ["reload", "restart"]
    assert kinds(watch) == ["unhealthy", "healed"] and read_events(watch.home)[-1]["how"] == "restart"
    assert count(watch, "heals_total", how="reload") == count(watch, "heals_total", how="restart") == 1
    assert count(watch, "healthy") == 1


def test_a_dead_process_is_restarted_without_being_asked(watch: Watch, process: Process) -> None:
    process.is_running, process.helps = False, {"restart"}
    look(watch)
    assert process.done == ["restart", "probe"] and kinds(watch) == ["unhealthy", "healed"]


def test_what_nothing_helps_is_given_up_with_what_to_do(watch: Watch, process: Process) -> None:
    process.answers = False
    with pytest.raises(EmbedlineError, match="process does not answer after 3 restarts: no answer") as caught:
        look(watch, 10)
    assert "embedline rollback" in caught.value.remedy and caught.value.exit_code == 1
    assert [what for what in process.done if what != "probe"] == ["reload", *["restart"] * 3]
    assert kinds(watch) == ["unhealthy", "gave_up"]
    assert count(watch, "healthy") == 0


def test_what_answers_again_by_itself_is_left_alone(
    watch: Watch, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "next_step", lambda *_: "wait")
    process.answers = False
    look(watch, 2)
    assert kinds(watch) == ["unhealthy"]
    process.answers = True
    look(watch)
    assert read_events(watch.home)[-1] | {"time": ""} == {
        "time": "", "kind": "healed", "process": "process", "how": "itself",
        "seconds": read_events(watch.home)[-1]["seconds"],
    }  # fmt: skip


def test_a_fault_of_ours_in_healing_is_a_try_that_failed(watch: Watch, process: Process) -> None:
    process.is_running = False
    process._heal = lambda how: 1 / 0  # type: ignore[method-assign,assignment]
    with pytest.raises(EmbedlineError, match="after 3 restarts"):
        look(watch, 10)

"""Logs stay bounded under a process that writes on; systemd's datagrams arrive; the unit is one that systemd reads."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving import events
from serving.supervisor.rotation import rotate
from serving.supervisor.sd_notify import notify
from tests.serving.supervisor.conftest import ROOT, wait_for

WRITER = "import time\nfor line in range(10**6):\n    print(f'line {line}', flush=True); time.sleep(0.001)"


def test_a_log_is_emptied_while_its_process_writes_on(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    with log.open("ab") as file, subprocess.Popen([sys.executable, "-c", WRITER], stdout=file) as writer:
        wait_for(lambda: log.stat().st_size > 1000)
        assert not rotate(log, 10**9)
        assert rotate(log, 1000)
        assert log.stat().st_size < 1000
        wait_for(lambda: log.stat().st_size > 1000)
        writer.kill()
    assert (tmp_path / "triton.previous.log").read_text().startswith("line 0\n")
    assert log.read_text().startswith("line "), "no hole where the old bytes were"


def test_no_log_is_no_fault(tmp_path: Path) -> None:
    assert not rotate(tmp_path / "none.log")


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_reach_the_service_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        notify("READY=1", "STATUS=version 1")
        assert manager.recv(100) == b"READY=1\nSTATUS=version 1"


def test_a_service_manager_that_does_not_read_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"{tmp_path}/notify")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
        for _ in range(5000):  # more than any queue holds
            notify("WATCHDOG=1")


def test_without_a_service_manager_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify("READY=1")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize(("old", "new", "right"), [("", "", True), ("Type=notify", "Type=notifies", False)])
def test_systemd_reads_the_unit(tmp_path: Path, old: str, new: str, right: bool) -> None:
    text = (ROOT / "serving" / "deploy" / "embedline.service").read_text()
    unit = tmp_path / "embedline.service"
    unit.write_text(text.replace("/srv/embedline/.venv/bin/embedline", sys.executable).replace(old, new))
    said = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True).stderr
    assert ("embedline.service" not in said) == right, said


def test_events_are_kept_in_order_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_BYTES", 1000)
    for number in range(40):
        events.record(tmp_path, "healed", number=number)
    kept = [event["number"] for event in events.read_events(tmp_path)]
    assert kept == list(range(kept[0], 40)) and len(kept) >= 10
    assert (tmp_path / events.EVENTS).stat().st_size <= 1000
    with (tmp_path / events.EVENTS).open("a") as file:
        file.write('{"time": "cut o')
    assert [event["number"] for event in events.read_events(tmp_path)] == kept


def test_what_a_kill_has_cut_off_does_not_spoil_the_next_event(tmp_path: Path) -> None:
    events.record(tmp_path, "started")
    with (tmp_path / events.EVENTS).open("a") as file:
        file.write('{"time": "2026')
    events.record(tmp_path, "retrain_wanted", reason="é")
    assert [(each["kind"], each.get("reason")) for each in events.read_events(tmp_path)] == [
        ("started", None),
        ("retrain_wanted", "é"),
    ]

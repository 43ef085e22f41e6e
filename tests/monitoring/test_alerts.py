"""Alerts reach a file, a webhook and a mailbox; one way that fails keeps no other from being used."""

from __future__ import annotations

import json
import socketserver
from pathlib import Path
from typing import Any

import pytest

from components.monitoring.config import Monitoring
from monitoring.alert import alert
from tests.loopback import collecting, serving

SECRET = "/hook/secret-token"


def settings(*alerts: dict[str, Any]) -> Monitoring:
    return Monitoring.model_validate({"alerts": list(alerts)})


def test_a_file_gets_a_line(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "alerts.log"
    for number in range(2):
        assert alert(settings({"name": "log", "path": str(path)}), "drift", f"window\n{number}") == []
    assert [line.split(maxsplit=1)[1] for line in path.read_text().splitlines()] == [
        "drift: window 0",
        "drift: window 1",
    ]


def test_a_webhook_gets_the_text_and_no_message_names_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as hook:
        monkeypatch.setenv("EMBEDLINE_WEBHOOK", f"{hook.url}{SECRET}")
        assert alert(settings({"name": "webhook"}), "drift", "version 3") == []
        hook.status = 500
        (refused,) = alert(settings({"name": "webhook"}), "drift", "version 3")
    (unreachable,) = alert(settings({"name": "webhook"}), "drift", "version 3")
    assert hook.posts[0].path == SECRET
    assert json.loads(hook.posts[0].body) == {"text": "drift\nversion 3"}
    assert refused == "webhook: the webhook answers 500"
    assert "cannot be reached" in unreachable
    assert not any("secret" in problem for problem in (refused, unreachable))


def test_a_mailbox_gets_the_message() -> None:
    heard: list[bytes] = []

    class Mailbox(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 ready\r\n")
            in_message = False
            for line in self.rfile:
                heard.append(line)
                if in_message:
                    if line == b".\r\n":
                        in_message = False
                        self.wfile.write(b"250 taken\r\n")
                    continue
                if line.upper().startswith(b"DATA"):
                    in_message = True
                    self.wfile.write(b"354 go on\r\n")
                elif line.upper().startswith(b"QUIT"):
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    self.wfile.write(b"250 ok\r\n")

    with serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mailbox)) as port:
        way = {"name": "email", "server": "127.0.0.1", "port": port, "sender": "a@b.c", "recipients": ["d@e.f"]}
        assert alert(settings(way | {"starttls": False}), "drift alarm", "version 3") == []
    text = b"".join(heard).decode()
    assert "Subject: drift alarm" in text and "version 3" in text and "rcpt TO:<d@e.f>" in text


def test_one_that_fails_is_named_and_the_others_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMBEDLINE_WEBHOOK", raising=False)
    path = tmp_path / "alerts.log"
    (problem,) = alert(settings({"name": "webhook"}, {"name": "log", "path": str(path)}), "drift", "version 3")
    assert problem == "webhook: alerts: EMBEDLINE_WEBHOOK is not set"
    assert path.read_text().endswith("drift: version 3\n")

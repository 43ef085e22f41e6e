"""The gateway is asked where it says that it listens; whatever else is there is not taken for an answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from components.errors import EmbedlineError
from serving.supervisor.gateway import ask, gateway
from tests.loopback import serving


class Gateway(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/healthz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Gateway)) as port:
        (tmp_path / "gateway.json").write_text(json.dumps({"pid": 1, "host": "0.0.0.0", "port": port}))
        yield tmp_path


def test_a_gateway_that_answers_is_well(home: Path) -> None:
    gateway(home).probe()


def test_a_gateway_that_answers_otherwise_is_not(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gateway, "status", 500)
    with pytest.raises(EmbedlineError, match="answers 500"):
        ask(home)


@pytest.mark.parametrize("where", [None, "", "{}", '{"host": "127.0.0.1", "port": 1}'])
def test_without_a_gateway_nothing_answers(tmp_path: Path, where: str | None) -> None:
    if where is not None:
        (tmp_path / "gateway.json").write_text(where)
    with pytest.raises(EmbedlineError, match="no gateway answers"):
        ask(tmp_path)

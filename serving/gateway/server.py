"""The gateway as a process: where it listens, how it is found, how patient it is, and how it ends."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import json
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from components.errors import EmbedlineError, UsageError
from components.files import write_text
from components.gateway import Gateway
from serving.gateway import keys, log, traces
from serving.gateway.app import create_app
from serving.gateway.service import Service
from serving.releases.canary import CanaryJudge

STATE = "gateway.json"
MAX_HEADER_BYTES = 64_000
KEEP_ALIVE_SECONDS = 75


def run(home: Path, settings: Gateway) -> None:
    """Answers until SIGTERM, SIGINT or SIGHUP, then answers what is in flight, for `drain_seconds` at most.

    `.embedline/gateway.json` says meanwhile where it listens. Raises `UsageError` before it would answer strangers
    without keys, `EmbedlineError` if the port is in use.
    """
    require_keys(home, settings.host)
    send_last_spans = traces.export_to(settings.traces) if settings.traces else None
    listener = listen(settings.host, settings.port)
    port = int(listener.getsockname()[1])
    log.take_over()
    allow_many_files()
    loop_settings: dict[str, Any] = {"loop": "uvloop", "http": patient(settings.receive_seconds), "ws": "none"}
    state = home / STATE
    write_text(state, json.dumps({"pid": os.getpid(), "host": settings.host, "port": port}) + "\n")
    try:
        asyncio_run(home, settings, listener, loop_settings)
    finally:
        if send_last_spans:
            send_last_spans()
        if f'"pid": {os.getpid()},' in state.read_text(encoding="utf-8"):
            state.unlink()


def asyncio_run(home: Path, settings: Gateway, listener: socket.socket, loop_settings: dict[str, Any]) -> None:
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: sys.exit(0))  # uvicorn sends the signal again once all is answered
    service = Service(home, settings, judge=CanaryJudge(home))
    config = uvicorn.Config(
        create_app(service),
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        **loop_settings,
    )
    server = uvicorn.Server(config)
    signal.signal(signal.SIGHUP, server.handle_exit)
    port = listener.getsockname()[1]
    collect_garbage_seldom()
    log.write("started", host=settings.host, port=port)
    server.run([listener])


def require_keys(home: Path, host: str) -> None:
    """Raises `UsageError` if others than this machine could ask and no key was ever made."""
    if not is_loopback(host) and not keys.read(home):
        raise UsageError(
            f"the gateway would answer everybody who can reach {host}",
            "Make a key first, `embedline keys create NAME`, or listen on 127.0.0.1 alone.",
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Returns the listening socket; port 0 takes any free one. Raises `EmbedlineError` if that is impossible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        raise EmbedlineError(
            f"the gateway cannot listen on {host} port {port}: {error.strerror}",
            "Stop the program that uses it, or set gateway.port to another (0: any free port).",
        ) from error
    return listener


def collect_garbage_seldom() -> None:
    """Looks for cycles after 20,000 new objects: after Python's 700 it took up to a tenth of the gateway's time."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def allow_many_files() -> None:
    """Raises the number of connections that may be open to what the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Joined:
    """A transport that sends together what is written in one turn of the loop: uvicorn writes the head of an answer and
    its body one after the other, which are two packets and wake the client twice."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = transport
        self.loop = loop
        self.written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        if not self.written:
            self.loop.call_soon(self.flush)
        self.written.append(data)

    def flush(self) -> None:
        if self.written:
            self.transport.write(b"".join(self.written))
            self.written.clear()

    def close(self) -> None:
        self.flush()
        self.transport.close()


def patient(seconds: float) -> type[HttpToolsProtocol]:
    """Returns uvicorn's protocol with a limit on how long, and how large, headers may be, and on slow readers. Each
    request's scope has `client_left`, a future that is done when the connection has ended."""

    class Patient(HttpToolsProtocol):
        timer: asyncio.TimerHandle | None = None
        reading: asyncio.TimerHandle | None = None
        header_bytes: int | None = 0
        """Of the headers that are being received; None while none are."""
        client_left: asyncio.Future[None]

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self.joined = Joined(transport, self.loop)
            super().connection_made(self.joined)  # type: ignore[arg-type]
            self.client_left = self.loop.create_future()
            self.timer = self.loop.call_later(seconds, transport.abort)

        def data_received(self, data: bytes) -> None:
            if self.header_bytes is not None:
                self.header_bytes += len(data)
            super().data_received(data)
            if self.header_bytes is not None and self.header_bytes > MAX_HEADER_BYTES:
                self.transport.abort()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.scope["client_left"] = self.client_left  # type: ignore[typeddict-unknown-key]
            self.header_bytes = 0
            if self.timer is None:
                self.timer = self.loop.call_later(seconds, self.transport.abort)

        def on_headers_complete(self) -> None:
            self._headers_done()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self.flow.resume_reading()  # else nobody sees that the client of a large body leaves

        def on_response_complete(self) -> None:
            self.joined.flush()  # at once: other answers of this turn may take long
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self.reading = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.reading:
                self.reading.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_done()
            if self.reading:
                self.reading.cancel()
            self.client_left.set_result(None)
            super().connection_lost(exc)

        def _headers_done(self) -> None:
            self.header_bytes = None
            if self.timer:
                self.timer.cancel()
                self.timer = None

    return Patient

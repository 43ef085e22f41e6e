"""The gateway as a process: keys over HTTP, a dead model, clients that leave or dawdle, and its own end."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from serving import TritonServer, control
from serving.gateway import keys
from serving.gateway.inference import Inference, Limits
from serving.routes import Routes, Target, write_routes
from tests.serving.gateway.conftest import ROOT, RunningGateway, running, wait_until
from tests.serving.gateway.test_app import error, image_part


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_routes(tmp_path, Routes(Target("embedder", 2)))
    return tmp_path


def model_processes(server: TritonServer) -> list[psutil.Process]:
    children = psutil.Process(server.pid).children(recursive=True)
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if child.name().startswith("triton_python_b")]


@contextmanager
def triton_at_rest(server: TritonServer) -> Iterator[None]:
    """Triton answers nothing inside of the block, and goes on afterwards."""
    psutil.Process(server.pid).suspend()
    try:
        yield
    finally:
        psutil.Process(server.pid).resume()


def gauge(gateway: RunningGateway, name: str) -> float:
    (line,) = [line for line in gateway.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def test_how_much_a_model_works_on_at_once_is_what_triton_says(triton_address: str) -> None:
    async def limits() -> Limits:
        inference = Inference(lambda: triton_address)
        try:
            return await inference.limits(Target("embedder", 2), 10)
        finally:
            await inference.close()

    assert asyncio.run(limits()) == Limits(batch=64, instances=1)


def test_keys_and_rates_over_http(home: Path, triton_address: str) -> None:
    secret = keys.create(home, "page", rate=2)
    with running(home, triton=triton_address) as gateway:
        for path in ("/v1/models", "/v1/routes"):
            error(gateway.get(path), 401)
        assert error(gateway.ask("a cat"), 401)["type"] == "authentication_error"
        assert gateway.get("/healthz").status_code == gateway.get("/readyz").status_code == 200
        headers = {"authorization": f"Bearer {secret}"}
        assert gateway.ask(["a cat"] * 20, headers=headers).status_code == 200
        answer = gateway.ask("a cat", headers=headers)
        assert error(answer, 429)["code"] == "rate_limit_exceeded" and 1 <= int(answer.headers["retry-after"]) <= 9
        keys.revoke(home, "page")
        wait_until(lambda: gateway.ask("a cat", headers=headers).status_code == 401)
        assert secret not in gateway.log.read_text()


def test_a_dead_model_is_reported_as_such_and_readiness_sees_it(
    home: Path, triton_address: str, server: TritonServer
) -> None:
    with running(home, triton=triton_address) as gateway:
        assert gateway.get("/readyz").status_code == 200
        try:
            for process in model_processes(server):
                process.kill()
            wait_until(lambda: gateway.get("/readyz").status_code == 503)
            assert gateway.get("/readyz").json()["ready"] is False and gateway.get("/healthz").status_code == 200
            answer = gateway.ask("a cat")
            assert error(answer, 503)["type"] == "server_error" and answer.headers["retry-after"]
        finally:
            control.load(server)
        wait_until(lambda: gateway.get("/readyz").status_code == 200)
        assert gateway.ask("a cat").status_code == 200


def test_no_model_server_at_all(home: Path) -> None:
    with running(home) as gateway:
        assert error(gateway.ask("a cat"), 503)["code"] == "model_down"
        assert gateway.get("/readyz").status_code == 503


def test_a_full_queue_a_client_that_leaves_and_a_late_answer(
    home: Path, triton_address: str, server: TritonServer
) -> None:
    with running(home, triton=triton_address, max_waiting_items=3, in_flight=1, timeout_seconds=4) as gateway:
        gateway.ask("a cat")
        with triton_at_rest(server):
            codes: list[int] = []
            first = threading.Thread(target=lambda: codes.append(gateway.ask("a cat").status_code))
            first.start()
            time.sleep(0.5)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{gateway.url}/v1/embeddings", json={"input": ["a", "b", "c"]}, timeout=0.5)
            wait_until(lambda: gauge(gateway, "embedline_gateway_waiting_items") == 0, 2)
            second = threading.Thread(target=lambda: codes.append(gateway.ask(["a", "b"]).status_code))
            second.start()
            wait_until(lambda: gauge(gateway, "embedline_gateway_waiting_items") == 2, 2)
            answer = gateway.ask(["a", "b"])
            assert error(answer, 503)["code"] == "overloaded" and answer.headers["retry-after"] == "1"
            first.join()
            second.join()
            assert codes == [504, 504]
        assert gauge(gateway, "embedline_gateway_dropped_total") == 1
        assert gauge(gateway, "embedline_gateway_held_bytes") == 0
        wait_until(lambda: gateway.ask("a cat").status_code == 200)
        assert 499 in [line.get("status") for line in gateway.lines()]


def test_a_client_of_a_large_body_that_leaves_is_seen(home: Path, triton_address: str, server: TritonServer) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    body = {"input": [[image_part(stream.getvalue())]]}
    with running(home, triton=triton_address, in_flight=1) as gateway:
        gateway.ask("a cat")
        with triton_at_rest(server):
            first = threading.Thread(target=lambda: gateway.ask("a cat"))
            first.start()
            time.sleep(0.5)
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{gateway.url}/v1/embeddings", json=body, timeout=1)
            wait_until(lambda: gauge(gateway, "embedline_gateway_held_bytes") < 1000, 2)
            assert gauge(gateway, "embedline_gateway_waiting_items") == 0
        first.join()
        assert gauge(gateway, "embedline_gateway_dropped_total") == 1


def test_what_is_in_flight_is_answered_before_the_end(home: Path, triton_address: str, server: TritonServer) -> None:
    with running(home, triton=triton_address) as gateway:
        gateway.ask("a cat")
        codes: list[int] = []
        with triton_at_rest(server):
            asking = [threading.Thread(target=lambda: codes.append(gateway.ask("a cat").status_code)) for _ in range(4)]
            for thread in asking:
                thread.start()
            time.sleep(0.5)
            gateway.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(httpx.ConnectError):
                gateway.get("/healthz")
            assert gateway.process.poll() is None and not codes
        for thread in asking:
            thread.join()
        assert codes == [200] * 4 and gateway.process.wait(10) == 0
        assert not (home / "gateway.json").exists()


def closed_after(gateway: RunningGateway, sent: bytes, more: bytes = b"", limit: float = 8) -> float:
    """Returns after how many seconds the gateway ends a connection that sends so slowly."""
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(sent)
        connection.settimeout(0.2)
        began = time.monotonic()
        while time.monotonic() - began < limit:
            try:
                if more:
                    connection.sendall(more)
                if not connection.recv(65536):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        return time.monotonic() - began


def test_clients_that_dawdle_are_hung_up_on(home: Path, triton_address: str) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n"
    whole = head + b"content-type: application/json\r\ncontent-length: 100\r\n\r\n"
    health = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with running(home, triton=triton_address, receive_seconds=1) as gateway:
        for sent, more in (
            (b"", b""),
            (head, b""),
            (head, b"a: b\r\n"),
            (whole, b""),
            (whole, b"x"),
            (health + head, b""),
        ):
            assert 0.5 < closed_after(gateway, sent, more) < 4, (sent, more)
        assert closed_after(gateway, head + b"a: " + b"b" * 200_000) < 0.9, "headers are bounded in bytes too"
        many = [socket.create_connection(("127.0.0.1", gateway.port)) for _ in range(300)]
        assert gateway.ask("a cat").status_code == 200
        for connection in many:
            connection.close()


def test_a_port_in_use_and_an_open_address_are_refused(home: Path) -> None:
    (home / ".embedline").mkdir()
    (home / "params.yaml").write_text("gateway:\n  port: 0\n")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from cli.main import main; main()", "gateway", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=60)

    ended = call("--host", "0.0.0.0")
    assert ended.returncode == 2 and "embedline keys create" in ended.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = call("--port", str(taken.getsockname()[1]))
        assert ended.returncode == 1 and "gateway.port" in ended.stderr

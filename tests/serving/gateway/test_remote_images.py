"""Images by URL: what is fetched, and all that must never be."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import httpcore
import pytest

from components.gateway import RemoteImages
from serving.gateway.refusal import Refusal
from serving.gateway.remote_images import Fetcher, is_public

PUBLIC = "93.184.215.14"
SETTINGS = RemoteImages(hosts=["images.example.com", "other.example.com"], seconds=2)


class Pages(BaseHTTPRequestHandler):
    """A web site with traps."""

    seen: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self) -> None:
        self.seen.append((self.headers["host"], self.path))
        headers: dict[str, str] = {}
        status, body = 200, b"an image"
        if self.path.startswith("/to/"):
            status, headers, body = 302, {"location": self.path.removeprefix("/to/")}, b""
        elif self.path == "/again":
            status, headers = 302, {"location": "/again"}
        elif self.path == "/compressed":
            headers = {"content-encoding": "gzip"}
        elif self.path == "/large":
            body = b"x" * 200_000
        elif self.path == "/missing":
            status = 404
        elif self.path == "/slow":
            time.sleep(3)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # a refused client has left
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


class Wire(httpcore.AsyncNetworkBackend):
    """Connects to the site whatever the address, and keeps which it was asked for."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[tuple[str, int]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append((host, port))
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", self.port, timeout)


def fetch(
    site: int, url: str, addresses: Callable[[str], Sequence[str]] = lambda host: [PUBLIC], limit: int = 100_000
) -> tuple[bytes, list[tuple[str, int]]]:
    """Returns what is fetched and the addresses that were connected to."""

    async def resolver(host: str, port: int) -> Sequence[str]:
        return addresses(host)

    async def main() -> tuple[bytes, list[tuple[str, int]]]:
        wire = Wire(site)
        fetcher = Fetcher(SETTINGS, limit, wire, resolver)
        try:
            return await fetcher.fetch(url), wire.asked
        finally:
            await fetcher.close()
            fetch.asked = wire.asked  # type: ignore[attr-defined]

    return asyncio.run(main())


def refused(site: int, url: str, code: str, **more: object) -> list[tuple[str, int]]:
    with pytest.raises(Refusal) as caught:
        fetch(site, url, **more)  # type: ignore[arg-type]
    assert caught.value.status == 400 and caught.value.code == code, caught.value.message
    asked: list[tuple[str, int]] = fetch.asked  # type: ignore[attr-defined]
    return asked


def test_an_image_comes_from_the_address_that_was_checked(site: int) -> None:
    Pages.seen.clear()
    body, asked = fetch(site, "http://images.example.com/cat.png")
    assert body == b"an image" and asked == [(PUBLIC, 80)]
    assert Pages.seen == [("images.example.com", "/cat.png")]


def test_a_redirect_is_followed_to_a_host_that_is_named(site: int) -> None:
    body, asked = fetch(site, "http://images.example.com/to/http://other.example.com/cat.png")
    assert body == b"an image" and len(asked) == 2


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/cat.png",
        "http://[::1]/cat.png",
        "http://2130706433/cat.png",
        "http://evil.example.com/cat.png",
        "http://images.example.com.evil.com/cat.png",
        "http://images.example.com:8080/cat.png",
        "http://user@images.example.com/cat.png",
        "http://images.example.com@127.0.0.1/cat.png",
        "ftp://images.example.com/cat.png",
        "file:///etc/passwd",
        "http:///cat.png",
        "http://images.example.com/größe.png",
        "http://images.example.com:port/",
    ],
)
def test_only_named_hosts_are_asked(site: int, url: str) -> None:
    assert refused(site, url, "forbidden_address") == []


@pytest.mark.parametrize(
    "place",
    [
        "http://127.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "//localhost/",
        "gopher://x",
    ],
)
def test_a_redirect_to_the_inside_is_not_followed(site: int, place: str) -> None:
    assert len(refused(site, f"http://images.example.com/to/{place}", "forbidden_address")) == 1


INSIDE = [
    "127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8",
    "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "fec0::1", "fe80::1%eth0", "nonsense",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_a_name_that_leads_inside_is_refused_and_not_connected_to(site: int, address: str) -> None:
    assert refused(site, "http://images.example.com/cat.png", "forbidden_address", addresses=lambda _: [address]) == []
    both = [PUBLIC, address]
    assert refused(site, "http://images.example.com/cat.png", "forbidden_address", addresses=lambda _: both) == []


def test_public_addresses_are_public() -> None:
    assert all(map(is_public, [PUBLIC, "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"]))


def test_a_name_is_looked_up_again_after_a_redirect(site: int) -> None:
    answers = iter([[PUBLIC], ["127.0.0.1"]])
    url = "http://images.example.com/to/http://images.example.com/cat.png"
    assert refused(site, url, "forbidden_address", addresses=lambda _: next(answers)) == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("compressed", "remote_image"),
        ("again", "remote_image"),
        ("missing", "remote_image"),
        ("slow", "remote_image"),
        ("large", "too_many_bytes"),
    ],
)
def test_what_a_host_may_not_send(site: int, path: str, code: str) -> None:
    refused(site, f"http://images.example.com/{path}", code)


def test_proxies_of_the_environment_are_not_asked(site: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        assert fetch(site, "http://images.example.com/cat.png")[0] == b"an image"

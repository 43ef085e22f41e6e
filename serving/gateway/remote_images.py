"""Images by URL, where they are switched on: from hosts that are named, never from inside of a network.

The address that was looked up is checked and is the very one that is connected to, again after each redirect.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import urljoin, urlsplit

import httpcore

from components.gateway import RemoteImages
from serving.gateway.refusal import Refusal

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host."""
NAT64 = ipaddress.ip_network("64:ff9b::/96")


async def resolve(host: str, port: int) -> Sequence[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise unreachable() from error
    return [str(address[0]) for *_, address in found]


def is_public(address: str) -> bool:
    """Returns whether an address is one of the internet at large, also where another notation hides it."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found in NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        inside = [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        if any(hidden is not None for hidden in inside) or found.is_site_local:
            return False
    return found.is_global and not found.is_multicast


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone, to the one that it has checked."""

    def __init__(self, network: httpcore.AsyncNetworkBackend, resolver: Resolver) -> None:
        self.network = network
        self.resolver = resolver

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self.resolver(host, port)
        if not addresses or not all(map(is_public, addresses)):
            raise Refusal(400, "the image's host is not on the public internet", code="forbidden_address")
        return await self.network.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await self.network.sleep(seconds)


class Fetcher:
    """Fetches images; proxies of the environment are not asked, and no connection is kept."""

    def __init__(
        self,
        settings: RemoteImages,
        max_bytes: int,
        network: httpcore.AsyncNetworkBackend | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        self.settings = settings
        self.max_bytes = max_bytes
        checked = CheckedNetwork(network or httpcore.AnyIOBackend(), resolver)
        self.pool = httpcore.AsyncConnectionPool(
            max_connections=16, max_keepalive_connections=0, network_backend=checked
        )

    async def fetch(self, url: str) -> bytes:
        """Returns the bytes at the address. Raises `Refusal` 400."""
        try:
            async with asyncio.timeout(self.settings.seconds):
                for _ in range(self.settings.redirects + 1):
                    self.require_allowed(url)
                    found = await self._get(url)
                    if isinstance(found, bytes):
                        return found
                    url = urljoin(url, found)
        except TimeoutError as error:
            raise Refusal(400, "the image has not arrived in time", code="remote_image") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            raise unreachable() from error
        raise Refusal(400, "the image's address leads on too often", code="remote_image")

    def require_allowed(self, url: str) -> None:
        """Raises `Refusal` for a host that is not named, a user in the address, or another port than usual."""
        try:
            parts = urlsplit(url)
            usual = PORTS.get(parts.scheme)
            allowed = url.isascii() and usual is not None and parts.port in (None, usual) and parts.username is None
        except ValueError as error:
            raise Refusal(400, "the image's address is none", code="forbidden_address") from error
        if not allowed or parts.hostname not in self.settings.hosts:
            raise Refusal(400, "images are not fetched from this host", code="forbidden_address")

    async def _get(self, url: str) -> bytes | str:
        """Returns the body, or where else it is."""
        host = str(urlsplit(url).hostname)
        headers = [("host", host), ("accept", "image/*"), ("accept-encoding", "identity")]
        async with self.pool.stream("GET", url, headers=headers) as answer:
            fields = {name.lower(): value for name, value in answer.headers}
            if answer.status in REDIRECTS and b"location" in fields:
                return fields[b"location"].decode("latin-1")
            if answer.status != 200:
                raise Refusal(400, f"the image's host answers {answer.status}", code="remote_image")
            if fields.get(b"content-encoding", b"identity").lower() != b"identity":
                raise Refusal(400, "the image's host sends it compressed", code="remote_image")
            parts, size = [], 0
            async for part in answer.aiter_stream():
                size += len(part)
                if size > self.max_bytes:
                    raise Refusal(400, f"an image has at most {self.max_bytes:,} bytes", code="too_many_bytes")
                parts.append(part)
            return b"".join(parts)

    async def close(self) -> None:
        await self.pool.aclose()


def unreachable() -> Refusal:
    return Refusal(400, "the image's host cannot be reached", code="remote_image")

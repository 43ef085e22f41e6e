"""Real servers on this machine for what sends to others: of any kind, and one that keeps what it is sent by HTTP."""

import gzip
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Post:
    path: str
    authorization: str | None
    body: bytes


@dataclass
class Collector:
    """What a server was sent; it answers with `status`."""

    url: str = ""
    status: int = 200
    posts: list[Post] = field(default_factory=list)


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """Yields the port of a server that answers until the block ends."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def collecting() -> Iterator[Collector]:
    """Yields what a server keeps of the POST requests that it gets, unpacked."""
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            kept.posts.append(Post(self.path, self.headers["Authorization"], body))
            self.send_response(kept.status)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        kept.url = f"http://127.0.0.1:{port}"
        yield kept

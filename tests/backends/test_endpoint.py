import base64
import hashlib
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.backends import endpoint
from components.backends.endpoint import PROBE, EndpointEmbedder, endpoint_at
from components.backends.open import open_embedder
from components.corpus import Item
from components.embedder import Vectors
from components.embedder.runtime import normalise
from components.errors import EmbedlineError, UsageError

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
"""What a server does with a request: the status, and what it sends."""
DIMENSION = 5


def vector(content: object) -> Vectors:
    """The vector of whatever stands in a request."""
    seed = int.from_bytes(hashlib.sha256(json.dumps(content).encode()).digest()[:8])
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


def sound(request: dict[str, Any]) -> tuple[int, Any]:
    contents = [request["messages"]] if "messages" in request else request["input"]
    vectors = [vector(content) for content in contents]
    encoded = [
        base64.b64encode(row.tobytes()).decode() if request["encoding_format"] == "base64" else row.tolist()
        for row in vectors
    ]
    return 200, {"data": [{"index": index, "embedding": row} for index, row in enumerate(encoded)]}


def of(change: Callable[[list[dict[str, Any]]], Any]) -> Answer:
    """A sound answer with its data changed."""

    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"data": change(sound(request)[1]["data"])}

    return answer


@dataclass
class Server:
    """What the server was asked, apart from probes; and what it does with the next requests, with all others, and with
    probes."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    script: list[Answer] = field(default_factory=list)
    always: Answer = sound
    probes: Answer = sound
    retry_after: str = "0"


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            probe = PROBE in json.dumps(request)
            if not probe:
                there.asked.append({"path": self.path, **request})
                there.headers.append(dict(self.headers))
            answer = there.probes if probe else there.script.pop(0) if there.script else there.always
            status, content = answer(request)
            body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Retry-After", there.retry_after)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hung up is what some tests are about."""

    with Quiet(("127.0.0.1", 0), Handler) as running:
        there = Server(f"http://127.0.0.1:{running.server_address[1]}/v1")
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield there
        running.shutdown()


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EMBEDLINE_ENDPOINT_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


TEXTS = ["a cat", "a dog", "one", "two", "a red tree"]
ITEMS = [Item(text) for text in TEXTS]
EXPECTED = normalise(np.stack([vector(text) for text in TEXTS]))


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_texts_travel_in_batches_and_come_back_in_order(encoding: Any, server: Server) -> None:
    vectors = EndpointEmbedder(server.url, "tiny", batch_size=2, encoding=encoding).encode(ITEMS)
    np.testing.assert_allclose(vectors, EXPECTED, atol=1e-6)
    assert vectors.dtype == np.float32 and vectors.shape == (5, DIMENSION)
    assert sorted(server.asked, key=lambda asked: TEXTS.index(asked["input"][0])) == [
        {"path": "/v1/embeddings", "model": "tiny", "encoding_format": encoding, "input": texts}
        for texts in (TEXTS[:2], TEXTS[2:4], TEXTS[4:])
    ]


def test_no_items_are_no_vectors(server: Server) -> None:
    assert EndpointEmbedder(server.url, "tiny").encode([]).shape == (0, DIMENSION)


def test_an_instruction_stands_before_the_text(server: Server) -> None:
    EndpointEmbedder(server.url, "tiny").encode([Item("a cat", instruction="find")])
    assert server.asked[0]["input"] == ["find a cat"]


def test_vectors_are_put_in_the_order_of_their_index(server: Server) -> None:
    server.always = of(lambda data: data[::-1])
    np.testing.assert_allclose(EndpointEmbedder(server.url, "tiny").encode(ITEMS), EXPECTED, atol=1e-6)


def test_an_endpoint_that_is_busy_or_down_is_asked_again(server: Server) -> None:
    server.script = [lambda _: (429, "later"), lambda _: (503, "starting"), lambda _: (500, "")]
    np.testing.assert_allclose(EndpointEmbedder(server.url, "tiny").encode(ITEMS), EXPECTED, atol=1e-6)
    assert len(server.asked) == 4

    server.always = lambda _: (429, "later")
    with pytest.raises(EmbedlineError, match="status 429, 5 times"):
        EndpointEmbedder(server.url, "tiny").encode(ITEMS)
    assert len(server.asked) == 4 + endpoint.ATTEMPTS


def test_the_endpoint_says_how_long_to_wait_but_not_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    server.retry_after = "3600"
    server.script = [lambda _: (429, "")]
    EndpointEmbedder(server.url, "tiny").encode(ITEMS)
    assert waits == [0, 0, endpoint.LONGEST_WAIT_SECONDS]
    server.retry_after = "Wed, 21 Oct 2026 07:28:00 GMT"
    server.always = lambda _: (500, "")
    with pytest.raises(EmbedlineError, match="status 500"):
        EndpointEmbedder(server.url, "tiny").encode(ITEMS)
    assert waits[3:] == [0, 0, 0.5, 1, 2, 4]


def test_an_answer_that_does_not_come_is_asked_for_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "FIRST_WAIT_SECONDS", 0)
    over = threading.Event()

    def slow(request: dict[str, Any]) -> tuple[int, Any]:
        over.wait(5)
        return 200, {}

    embedder = EndpointEmbedder(server.url, "tiny", timeout_seconds=0.2)
    server.script = [slow]
    np.testing.assert_allclose(embedder.encode(ITEMS), EXPECTED, atol=1e-6)
    server.always = slow
    with pytest.raises(EmbedlineError, match=r"ReadTimeout after at most 0.2 s, 5 times"):
        embedder.encode(ITEMS)
    over.set()


def test_an_endpoint_that_is_not_there_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EmbedlineError, match=f"no endpoint answers at {place}/embeddings"):
        EndpointEmbedder(place, "tiny").encode(ITEMS)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (of(lambda data: data[:-1]), "no list of vectors .KeyError: 4"),
        (of(lambda data: [*data, {**data[0], "index": 5}]), r"6 vectors of shape \(5,\) for 5 items"),
        (of(lambda data: [*data, data[0]]), "6 vectors"),
        (of(lambda data: [{**entry, "index": 0} for entry in data]), "no list of vectors"),
        (of(lambda data: [{"embedding": entry["embedding"]} for entry in data]), "KeyError: 'index'"),
        (of(lambda data: [{**data[0], "embedding": [1.0]}, *data[1:]]), "no list of vectors"),
        (of(lambda data: [{**entry, "embedding": [1.0, 2.0]} for entry in data]), "length 2, and 5 before"),
        (of(lambda data: [{**entry, "embedding": 1.0} for entry in data]), "vectors of shape"),
        (of(lambda data: [{**entry, "embedding": "no base64"} for entry in data]), "no list of vectors"),
        (of(lambda data: None), "no list of vectors"),
        (lambda _: (200, "<html>"), "no list of vectors"),
        (lambda _: (200, []), "no list of vectors"),
    ],
)
def test_an_answer_of_another_shape_is_refused(answer: Answer, message: str, server: Server) -> None:
    server.always = answer
    with pytest.raises(EmbedlineError, match=f"tiny answers the items from 0 with .*{message}"):
        EndpointEmbedder(server.url, "tiny").encode(ITEMS)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), None])
def test_a_value_that_is_no_number_is_refused_by_item(broken: float | None, server: Server) -> None:
    def spoil(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        data[1]["embedding"][2] = broken
        return data

    server.always = of(spoil)
    with pytest.raises(EmbedlineError, match="tiny answers the items from 1 with values that are no numbers"):
        EndpointEmbedder(server.url, "tiny").encode(ITEMS)


def test_a_refusal_shows_what_the_endpoint_says_but_never_the_key(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDLINE_ENDPOINT_KEY", "sk-very-secret")
    server.always = lambda _: (401, "wrong key sk-very-secret")
    with pytest.raises(EmbedlineError, match=r"refuses the items from 0 for tiny: 401 wrong key \*\*\*") as raised:
        EndpointEmbedder(server.url, "tiny").encode(ITEMS)
    assert "secret" not in f"{raised.value} {raised.value.remedy}"
    assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert len(server.asked) == 1


def test_the_key_of_openai_goes_to_openai_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    EndpointEmbedder(server.url, "tiny").encode(ITEMS)
    assert "Authorization" not in server.headers[0]
    assert EndpointEmbedder("https://api.openai.com/v1", "tiny").key == "sk-of-openai"
    for other in ("http://api.openai.com/v1", "https://api.openai.com.example.org/v1"):
        assert EndpointEmbedder(other, "tiny").key is None, other
    monkeypatch.setenv("EMBEDLINE_ENDPOINT_KEY", "sk-of-the-endpoint")
    assert EndpointEmbedder("https://api.openai.com/v1", "tiny").key == "sk-of-the-endpoint"


def test_images_are_refused_unless_the_endpoint_takes_them(server: Server, image_files: list[Path]) -> None:
    embedder = EndpointEmbedder(server.url, "tiny")
    for item, message in (
        (Item(image=image_files[0]), "item 1 is of an image"),
        (Item("a cat", image_files[0]), "item 1 is of an image"),
        (Item(video=tuple(image_files)), "item 1 is a video"),
        (Item(instruction="find"), "item 1 has neither"),
    ):
        with pytest.raises(UsageError, match=message):
            embedder.encode([Item("a cat"), item])
    for takes in ("objects", "messages"):
        with pytest.raises(UsageError, match="item 0 is a video"):
            EndpointEmbedder(server.url, "tiny", takes=takes).encode([Item(video=tuple(image_files))])  # type: ignore[arg-type]
    assert not any("input" in asked and "data:" in str(asked) for asked in server.asked)


def data_url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def test_images_travel_as_objects_with_their_own_bytes(server: Server, image_files: list[Path]) -> None:
    items = [Item("a cat"), Item(image=image_files[0]), Item("a cat", image_files[1].read_bytes(), instruction="find")]
    vectors = EndpointEmbedder(server.url, "tiny", takes="objects").encode(items)
    objects = [
        {"text": "a cat"},
        {"image": data_url(image_files[0])},
        {"text": "find a cat", "image": data_url(image_files[1])},
    ]
    assert server.asked[0]["input"] == objects
    np.testing.assert_allclose(vectors, normalise(np.stack([vector(content) for content in objects])), atol=1e-6)


def test_images_travel_as_one_chat_a_request(server: Server, image_files: list[Path]) -> None:
    items = [Item("a cat"), Item(image=image_files[0]), Item("a cat", image_files[1], instruction="find")]
    vectors = EndpointEmbedder(server.url, "tiny", takes="messages").encode(items)
    text = {"type": "text", "text": "a cat"}
    first, second = ({"type": "image_url", "image_url": {"url": data_url(file)}} for file in image_files[:2])
    chats = [
        [{"role": "user", "content": [text]}],
        [{"role": "user", "content": [first]}],
        [{"role": "system", "content": "find"}, {"role": "user", "content": [second, text]}],
    ]
    assert len(server.asked) == 3 and all(asked["messages"] in chats for asked in server.asked)
    np.testing.assert_allclose(vectors, normalise(np.stack([vector(chat) for chat in chats])), atol=1e-6)


def test_an_image_in_memory_travels_as_png(server: Server, image_files: list[Path]) -> None:
    image = Image.open(image_files[0])
    EndpointEmbedder(server.url, "tiny", takes="objects").encode([Item(image=image)])
    kind, _, data = server.asked[0]["input"][0]["image"].partition(",")
    assert kind == "data:image/png;base64"
    sent = Image.open(io.BytesIO(base64.b64decode(data)))
    np.testing.assert_array_equal(np.asarray(sent), np.asarray(image))


def test_an_unreadable_image_is_named(server: Server, tmp_path: Path) -> None:
    embedder = EndpointEmbedder(server.url, "tiny", takes="objects")
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(UsageError, match=f"item 1: .*{name}"):
            embedder.encode([Item("a cat"), Item(image=tmp_path / name)])


def test_an_address_names_the_model_and_what_the_endpoint_takes(server: Server) -> None:
    embedder = endpoint_at(f"{server.url}?takes=objects&encoding=base64&version=3#org/tiny", 7)
    assert (embedder.name, embedder.takes, embedder.encoding, embedder.batch_size) == (
        "org/tiny",
        "objects",
        "base64",
        7,
    )
    embedder.encode([Item("a cat")])
    assert server.asked[0]["path"] == "/v1/embeddings?version=3"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://host/v1", "http://host/v1: names no model"),
        ("http://host/v1?takes=videos#tiny", "takes is 'videos'"),
        ("http://host/v1?encoding=int8#tiny", "encoding is 'int8'"),
        ("http://user:secret@host/v1#tiny", "host: no URL of an endpoint"),
        ("http:///v1#tiny", "no URL"),
        ("http://host:port/v1#tiny", "no URL"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        endpoint_at(address, 1)
    assert "secret" not in f"{raised.value} {raised.value.remedy}"


def test_the_fingerprint_follows_address_and_answer(server: Server, tmp_path: Path) -> None:
    def known_as(address: str) -> str:
        return open_embedder(address, 2, tmp_path)[1]

    same = known_as(f"{server.url}#tiny")
    assert known_as(f"{server.url}#tiny") == same
    assert known_as(f"{server.url}#other") != same
    assert known_as(f"{server.url}?version=2#tiny") != same
    server.probes = of(lambda data: [{**data[0], "embedding": [*data[0]["embedding"][:-1], 0.125]}])
    assert known_as(f"{server.url}#tiny") != same
    embedder, _ = open_embedder(f"{server.url}#tiny", 2, tmp_path)
    assert isinstance(embedder, EndpointEmbedder) and embedder.batch_size == 2 and not server.asked


def test_an_endpoint_that_refuses_the_probe_is_not_opened(server: Server, tmp_path: Path) -> None:
    server.probes = lambda _: (404, "no such model")
    with pytest.raises(EmbedlineError, match="404 no such model"):
        open_embedder(f"{server.url}#tiny", 2, tmp_path)

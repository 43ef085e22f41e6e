"""The client of applications: what it sends, what it tries again, when it gives up, and what it refuses to believe."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.corpus.item import Item
from components.embedder.runtime import normalise
from components.errors import EmbedlineError, UsageError
from serving import TritonEmbedder, TritonServer
from serving.client import AsyncEmbedder, Embedder, Unavailable
from serving.client.gateway import MAX_BATCH_BYTES, retry_after
from serving.client.inputs import Input
from serving.client.retries import MOST_TRIES, pause

Png = Callable[..., bytes]
DIMENSION = 8
Answer = tuple[int, dict[str, str], bytes]


def vector_of(parts: list[dict[str, Any]], instruction: str | None, dimension: int) -> np.ndarray:
    """Returns a vector that depends on all that was sent of an item; its length is not 1."""
    seed = hashlib.sha256(json.dumps([parts, instruction]).encode()).digest()
    return np.random.default_rng(list(seed)).normal(size=dimension).astype(np.float32)


class FakeGateway(ThreadingHTTPServer):
    """Speaks the gateway's contract; `planned` answers come first, one a request."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.planned: list[Answer | Callable[[BaseHTTPRequestHandler], None]] = []
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.version = 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeGateway
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        self.server.headers.append(dict(self.headers))
        planned = self.server.planned.pop(0) if self.server.planned else (200, {}, answer_to(body, self.server.version))
        if callable(planned):
            planned(self)
            self.close_connection = True
            return
        status, headers, content = planned if self.path == "/v1/embeddings" else (404, {}, b"")
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def answer_to(body: dict[str, Any], version: int = 1) -> bytes:
    """Returns the answer, its vectors in the reverse order."""
    count = len(body["input"])
    instructions = body.get("instruction") or [None] * count
    vectors = [
        vector_of(parts, words, body.get("dimensions", DIMENSION))
        for parts, words in zip(body["input"], instructions, strict=True)
    ]
    data = [
        {"object": "embedding", "index": index, "embedding": base64.b64encode(vector.tobytes()).decode()}
        for index, vector in enumerate(vectors)
    ]
    return json.dumps({"object": "list", "model": f"embedder/{version}", "data": data[::-1]}).encode()


def refusal(message: str, param: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "t", "param": param, "code": None}}).encode()


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    server = FakeGateway()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def embedder(gateway: FakeGateway) -> Iterator[Embedder]:
    with Embedder(gateway.url, timeout_seconds=10) as embedder:
        yield embedder


def text(words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": words}]


def image(data: bytes, kind: str = "png") -> dict[str, Any]:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def test_every_kind_of_input_is_sent_as_content_parts(
    gateway: FakeGateway, embedder: Embedder, png: Png, tmp_path: Path
) -> None:
    path = tmp_path / "blue.png"
    path.write_bytes(png("blue"))
    inputs: list[Input] = [
        "a sad cat",
        png("red"),
        path,
        Item(text="größe", image=b"\xff\xd8\xff cut"),
        Item(text="cat", instruction="own"),
    ]
    vectors = embedder.encode(inputs, "find the image", dimension=4)
    (sent,) = gateway.requests
    items = [
        text("a sad cat"),
        [image(png("red"))],
        [image(png("blue"))],
        [*text("größe"), image(b"\xff\xd8\xff cut", "jpeg")],
        text("cat"),
    ]
    words = ["find the image"] * 4 + ["own"]
    assert sent.pop("user")
    assert sent == {
        "model": "embedder",
        "input": items,
        "encoding_format": "base64",
        "dimensions": 4,
        "instruction": words,
    }
    expected = normalise(np.stack([vector_of(parts, wording, 4) for parts, wording in zip(items, words, strict=True)]))
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, expected)


def test_a_decoded_image_arrives_pixel_by_pixel(gateway: FakeGateway, embedder: Embedder) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    embedder.encode(Image.fromarray(pixels))
    url = gateway.requests[0]["input"][0][0]["image_url"]["url"]
    sent = base64.b64decode(url.partition(",")[2])
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sent))), pixels)


def test_one_input_is_one_vector_and_no_input_is_no_row(embedder: Embedder) -> None:
    alone = embedder.encode("cat")
    assert alone.shape == (DIMENSION,)
    np.testing.assert_array_equal(alone, embedder.encode(["cat"])[0])
    assert embedder.encode([]).shape == (0, DIMENSION)
    assert embedder.dimension == DIMENSION


def test_it_takes_the_arguments_of_sentence_transformers(gateway: FakeGateway, embedder: Embedder) -> None:
    vectors = embedder.encode(["a", "b", "c"], batch_size=2, normalize_embeddings=True, convert_to_numpy=True)
    assert [len(sent["input"]) for sent in gateway.requests] == [2, 1]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    with pytest.raises(UsageError, match="length 1"):
        embedder.encode(["a"], normalize_embeddings=False)


def test_it_takes_the_place_of_langchains_embeddings(gateway: FakeGateway) -> None:
    with Embedder(gateway.url, query_instruction="find the image") as embedder:
        documents, query = embedder.embed_documents(["cat", "dog"]), embedder.embed_query("cat")
    assert [sent.get("instruction") for sent in gateway.requests] == [None, ["find the image"]]
    assert isinstance(documents[0][0], float)
    assert len(query) == DIMENSION
    assert documents[0] != query


def test_many_items_come_back_in_order_in_batches_bounded_in_items_and_bytes(
    gateway: FakeGateway, embedder: Embedder
) -> None:
    texts = [f"text {number}" for number in range(150)]
    np.testing.assert_array_equal(embedder.encode(texts), np.stack([embedder.encode(one) for one in texts]))
    assert [len(sent["input"]) for sent in gateway.requests[:3]] == [64, 64, 22]
    gateway.requests.clear()
    embedder.encode([b"x" * (MAX_BATCH_BYTES // 2 + 1)] * 3 + ["cat"])
    assert [len(sent["input"]) for sent in gateway.requests] == [1, 1, 2]


def test_the_key_goes_with_every_request_and_one_object_is_one_user(gateway: FakeGateway) -> None:
    with Embedder(gateway.url, api_key="secret") as one, Embedder(gateway.url, user="u1") as other:
        for embedder in (one, one, other):
            embedder.encode(["cat"])
    assert [headers.get("Authorization") for headers in gateway.headers] == ["Bearer secret"] * 2 + [None]
    first, second, third = (sent["user"] for sent in gateway.requests)
    assert first == second != third == "u1"


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_after_the_time_that_it_names(
    gateway: FakeGateway, embedder: Embedder, status: int
) -> None:
    gateway.planned = [(status, {"Retry-After": "1"}, refusal("busy"))]
    began = time.monotonic()
    assert embedder.encode(["cat"]).shape == (1, DIMENSION)
    assert 1 <= time.monotonic() - began < 3
    assert len(gateway.requests) == 2


def test_a_broken_connection_is_tried_again(gateway: FakeGateway, embedder: Embedder) -> None:
    gateway.planned = [lambda handler: handler.connection.close()] * 2
    assert embedder.encode(["cat"]).shape == (1, DIMENSION)
    assert len(gateway.requests) == 3


def test_only_the_batch_that_failed_is_sent_again(gateway: FakeGateway, embedder: Embedder) -> None:
    ok = answer_to({"input": [text("a"), text("b")]})
    gateway.planned = [(200, {}, ok), (503, {}, refusal("busy"))]
    embedder.encode(["a", "b", "c", "d"], batch_size=2)
    assert [sent["input"][0][0]["text"] for sent in gateway.requests] == ["a", "c", "c"]


def test_a_server_that_stays_busy_is_given_up(gateway: FakeGateway, embedder: Embedder) -> None:
    gateway.planned = [(503, {}, refusal("the queue is full"))] * 100
    with pytest.raises(Unavailable, match=r"cannot answer now \(503\): the queue is full"):
        embedder.encode(["cat"])
    assert len(gateway.requests) == MOST_TRIES


def test_a_wait_beyond_the_deadline_is_not_begun(gateway: FakeGateway) -> None:
    gateway.planned = [(429, {"Retry-After": "30"}, refusal("too many requests"))]
    began = time.monotonic()
    with Embedder(gateway.url, timeout_seconds=5) as embedder, pytest.raises(Unavailable, match="too many requests"):
        embedder.encode(["cat"])
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500])
def test_a_refusal_is_not_tried_again(gateway: FakeGateway, embedder: Embedder, status: int) -> None:
    gateway.planned = [(status, {}, refusal("no such thing"))]
    with pytest.raises(EmbedlineError, match=rf"refused the request \({status}\): no such thing") as caught:
        embedder.encode(["cat"])
    assert not isinstance(caught.value, Unavailable)
    assert len(gateway.requests) == 1


def test_a_bad_item_is_named_by_its_place_among_all(gateway: FakeGateway, embedder: Embedder) -> None:
    ok = answer_to({"input": [text("a"), text("b")]})
    gateway.planned = [(200, {}, ok), (400, {}, refusal("the image cannot be decoded", "input[1]"))]
    with pytest.raises(EmbedlineError, match=r"refused item 4 \('d'\): the image cannot be decoded"):
        embedder.encode(["a", "b", "c", "d"], batch_size=2)


def dribble(handler: BaseHTTPRequestHandler) -> None:
    """Sends a byte now and then, so that no single read takes long."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(50):
        handler.wfile.write(b" ")
        time.sleep(0.1)


@pytest.mark.parametrize("answer", [dribble, lambda _: time.sleep(5)])
def test_the_deadline_holds_from_end_to_end(gateway: FakeGateway, answer: Callable[..., None]) -> None:
    gateway.planned = [answer]
    began = time.monotonic()
    with (
        Embedder(gateway.url, timeout_seconds=0.5) as embedder,
        pytest.raises(EmbedlineError, match=r"took longer than 0.5 s|no gateway answers"),
    ):
        embedder.encode(["cat"])
    assert time.monotonic() - began < 2


def changed(**fields: Any) -> bytes:
    """Returns the answer to one item, with other fields in its entry."""
    answer = json.loads(answer_to({"input": [text("cat")]}))
    answer["data"][0] |= fields
    return json.dumps(answer).encode()


def encoded(*values: float) -> str:
    return base64.b64encode(np.array(values, np.float32).tobytes()).decode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b"{}",
        b'{"data": [], "model": "embedder/1"}',
        b'{"data": 3, "model": "embedder/1"}',
        answer_to({"input": [text("cat"), text("dog")]}),
        changed(index=1),
        changed(index=None),
        changed(embedding=[0.5] * DIMENSION),
        changed(embedding="no base64!"),
        changed(embedding=base64.b64encode(b"12345").decode()),
        changed(embedding=""),
        changed(embedding=encoded(1, float("nan"))),
        changed(embedding=encoded(1, float("inf"))),
        b"\xff\xfe",
    ],
)
def test_a_malformed_answer_is_no_vector(gateway: FakeGateway, embedder: Embedder, body: bytes) -> None:
    gateway.planned = [(200, {}, body)]
    with pytest.raises(EmbedlineError, match="answers not as an embeddings endpoint does"):
        embedder.encode(["cat"])
    assert len(gateway.requests) == 1


def test_an_error_that_is_no_json_is_still_one(gateway: FakeGateway, embedder: Embedder) -> None:
    gateway.planned = [(404, {}, b"<html>")]
    with pytest.raises(EmbedlineError, match=r"refused the request \(404\): Not Found"):
        embedder.encode(["cat"])


def test_a_call_that_two_versions_have_answered_begins_again(gateway: FakeGateway, embedder: Embedder) -> None:
    gateway.planned = [(200, {}, answer_to({"input": [text("a")]}))]
    gateway.version = 2
    embedder.encode(["a", "b"], batch_size=1)
    assert [sent["input"][0][0]["text"] for sent in gateway.requests] == ["a", "b", "a", "b"]


def test_threads_share_one_object(embedder: Embedder) -> None:
    texts = [f"text {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(embedder.encode, texts))
    np.testing.assert_array_equal(np.stack(answers), embedder.encode(texts))


def test_a_forked_process_opens_connections_of_its_own(embedder: Embedder) -> None:
    expected = embedder.encode("cat")
    if (child := os.fork()) == 0:
        os._exit(0 if np.array_equal(embedder.encode("cat"), expected) else 1)
    ended, status = 0, 0
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.05)
    if not ended:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert (ended, status) == (child, 0)


def test_the_asynchronous_one_answers_the_same_and_many_at_once(gateway: FakeGateway, embedder: Embedder) -> None:
    async def ask() -> list[np.ndarray]:
        async with AsyncEmbedder(gateway.url) as asynchronous:
            return await asyncio.gather(*(asynchronous.encode([f"text {number}"]) for number in range(20)))

    expected = embedder.encode([f"text {number}" for number in range(20)])
    np.testing.assert_array_equal(np.concatenate(asyncio.run(ask())), expected)


def test_it_encodes_where_an_event_loop_runs_already(embedder: Embedder) -> None:
    async def cell() -> np.ndarray:
        return embedder.encode("cat")

    np.testing.assert_array_equal(asyncio.run(cell()), embedder.encode("cat"))


@pytest.mark.parametrize(
    ("inputs", "instruction", "problem"),
    [
        ([3], None, "item 1 is a int"),
        (["cat", Item()], None, "item 2 has neither text nor image"),
        (["cat", Path("missing.png")], None, "item 2 .*cannot be read"),
        (["a", "b"], ["find"], "1 instructions for 2 inputs"),
    ],
)
def test_what_cannot_be_sent_is_refused(embedder: Embedder, inputs: Any, instruction: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        embedder.encode(inputs, instruction)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "triton://", "triton://host/embedder/one"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        Embedder(url)


def test_nobody_there_is_said_after_a_few_tries() -> None:
    with (
        Embedder("http://127.0.0.1:9", timeout_seconds=0.4) as embedder,
        pytest.raises(Unavailable, match="no gateway"),
    ):
        embedder.encode(["cat"])
    with (
        Embedder("triton://127.0.0.1:9", timeout_seconds=0.4) as embedder,
        pytest.raises(Unavailable, match="no Triton"),
    ):
        embedder.encode(["cat"])


def test_pauses_double_differ_and_honour_what_the_server_asks_for() -> None:
    plain, asked = Unavailable("busy"), Unavailable("busy", after=2)
    first = [pause(1, plain, 60) for _ in range(200)]
    assert min(first) >= 0.05
    assert max(first) <= 0.1
    assert len(set(first)) > 100, "clients that failed together must not come back together"
    assert min(pause(4, plain, 60) for _ in range(50)) >= 0.4
    assert min(pause(1, asked, 60) for _ in range(50)) > 2
    with pytest.raises(Unavailable):
        pause(MOST_TRIES, plain, 60)
    with pytest.raises(Unavailable):
        pause(1, asked, 2)


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    assert retry_after("3") == 3
    assert 8 < retry_after(formatdate(time.time() + 10, usegmt=True)) <= 10
    assert retry_after(formatdate(time.time() - 10, usegmt=True)) == 0
    assert retry_after("") == retry_after("soon") == 0


def test_over_triton_it_answers_as_triton_embedder_does(server: TritonServer, png: Png) -> None:
    items = [Item("a sad cat"), Item(image=png("red")), Item("dog", png("green"), instruction="find the image")] * 30
    expected = TritonEmbedder(server.url, version=1).encode(items)
    with Embedder(f"triton://{server.url}/embedder/1") as embedder:
        np.testing.assert_allclose(embedder.encode(items, batch_size=40), expected, atol=1e-5)
        np.testing.assert_allclose(embedder.encode("a sad cat"), expected[0], atol=1e-5)
        assert embedder.encode(["cat"], dimension=16).shape == (1, 16)
        with pytest.raises(EmbedlineError, match=r"refused item 52: the image cannot be decoded"):
            embedder.encode([*["cat"] * 51, b"\x89PNG\r\n cut off"], batch_size=20)
    other = TritonEmbedder(server.url, version=2).encode(items)
    assert (expected * other).sum(axis=1).max() < 0.9, "the other version must differ"

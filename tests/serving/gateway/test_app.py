"""The interface as applications use it: the official client, plain HTTP, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from components.corpus.item import Item
from components.embedder.runtime import normalise
from serving import TritonEmbedder, TritonServer
from tests.serving.gateway.conftest import RunningGateway


def data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image_part(image: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_uri(image)}}


def vectors(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return np.array([entry["embedding"] for entry in data], np.float32)


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"} and found["message"]
    return dict(found)


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def direct(session_server: TritonServer) -> TritonEmbedder:
    return TritonEmbedder(session_server.url, version=2)


def test_the_official_client_gets_the_vectors_of_triton(client: openai.OpenAI, direct: TritonEmbedder) -> None:
    texts = ["a sad cat", "red dog", "a sad cat"]
    answer = client.embeddings.create(model="embedder", input=texts)
    expected = direct.encode([Item(text) for text in texts])
    found = np.array([entry.embedding for entry in answer.data])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert answer.model == "embedder/2" and [entry.index for entry in answer.data] == [0, 1, 2]
    floats = client.embeddings.create(model="embedder/2", input=texts, encoding_format="float")
    np.testing.assert_allclose([entry.embedding for entry in floats.data], expected, atol=1e-6)
    assert not np.allclose(expected[0], expected[1], atol=1e-3), "different items must have different vectors"


def test_the_official_client_lists_the_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["embedder", "embedder/2"]


def test_the_official_client_reads_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="token lists"):
        client.embeddings.create(model="embedder", input=[[1, 2, 3]])
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="text-embedding-3-small", input="a cat")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_parts_and_instructions_mean_what_they_mean_to_triton(
    gateway: RunningGateway, direct: TritonEmbedder, png: Callable[..., bytes]
) -> None:
    red, blue = png("red"), png("blue")
    one_item = [text_part("a cat"), image_part(red)]
    items = [Item("a cat", red), Item(image=blue), Item("a dog"), Item("a dog", instruction="find the image")]
    content = [one_item, [image_part(blue)], "a dog", [text_part("a dog")]]
    answer = gateway.ask(content, instruction=[None, None, None, "find the image"])
    np.testing.assert_allclose(vectors(answer), direct.encode(items), atol=1e-6)
    np.testing.assert_allclose(vectors(gateway.ask(one_item)), direct.encode(items[:1]), atol=1e-6)
    plain = [{"type": "image_url", "image_url": {"url": base64.b64encode(blue).decode()}}]
    np.testing.assert_allclose(vectors(gateway.ask(plain)), direct.encode(items[1:2]), atol=1e-6)
    answer = gateway.ask("a cat", instruction="find the image")
    np.testing.assert_allclose(vectors(answer), direct.encode([Item("a cat", instruction="find the image")]), atol=1e-6)


def test_shorter_vectors_are_cut_and_of_length_one(gateway: RunningGateway, direct: TritonEmbedder) -> None:
    short, full = (vectors(gateway.ask(["a sad cat"], dimensions=length)) for length in (16, 32))
    np.testing.assert_allclose(short, normalise(full[:, :16]), atol=1e-6)
    np.testing.assert_allclose(full, direct.encode([Item("a sad cat")]), atol=1e-6)
    found = error(gateway.ask("a cat", dimensions=17), 400)
    assert found["param"] == "dimensions" and "32, 16" in found["message"]


def test_more_items_than_triton_takes_at_once(gateway: RunningGateway, direct: TritonEmbedder) -> None:
    texts = [f"a {word} cat" for word in ["sad", "happy", "red"] * 33]
    np.testing.assert_allclose(vectors(gateway.ask(texts)), direct.encode([Item(text) for text in texts]), atol=1e-6)


def test_an_answer_says_which_version_and_request_it_is_of(gateway: RunningGateway) -> None:
    answer = gateway.ask("a cat", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1" and answer.headers["embedline-version"] == "2"
    assert answer.json()["object"] == "list" and answer.json()["data"][0]["object"] == "embedding"
    made = [gateway.ask("a cat", headers={"x-request-id": "two words"}).headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1] and " " not in made[0]
    (line,) = [line for line in gateway.lines() if line.get("request_id") == "mine-1"]
    assert line["status"] == 200 and line["version"] == 2 and line["items"] == 1
    assert "a cat" not in gateway.log.read_text()


def truncated(image: bytes) -> bytes:
    """A PNG whose header is whole and whose pixels are not."""
    return image[: len(image) // 2]


def test_a_bad_item_fails_the_request_or_itself(
    gateway: RunningGateway, direct: TritonEmbedder, png: Callable[..., bytes]
) -> None:
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(noise, "PNG")
    broken = [image_part(truncated(noise.getvalue()))]
    content = ["a cat", broken, [image_part(b"no image")], "", [image_part(png("red"))]]
    found = error(gateway.ask(content), 400)
    assert found["param"] == "input[2]", "the gateway knows this one before it asks the model"
    found = error(gateway.ask(content[:2]), 400)
    assert found["param"] == "input[1]" and "decoded" in found["message"]
    answer = gateway.ask(content, on_error="item")
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert [entry["object"] for entry in data] == ["embedding", "error", "error", "error", "embedding"]
    nothing = gateway.ask(["a cat", " "], on_error="item").json()["data"]  # the tests' model divides by no tokens
    assert nothing[0]["object"] == "embedding" and nothing[1]["error"]["code"] == "no_vector"
    error(gateway.ask(["a cat", " "]), 422)
    assert [entry["error"]["param"] for entry in data[1:4]] == ["input[1]", "input[2]", "input[3]"]
    good = np.array([data[0]["embedding"], data[4]["embedding"]])
    np.testing.assert_allclose(good, direct.encode([Item("a cat"), Item(image=png("red"))]), atol=1e-6)


def bomb(width: int, height: int) -> bytes:
    """A small PNG of many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * min(height, 4000))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "more", "param", "said"),
    [
        ([1, 2, 3], {}, "input", "token lists"),
        ([[1, 2], [3]], {}, "input[0]", "token lists"),
        ([], {}, "input", "list of strings"),
        (7, {}, "input", "list of strings"),
        ("", {}, "input[0]", "empty"),
        (["a cat"] * 101, {}, "input", "at most 100"),
        ("x" * 1001, {}, "input[0]", "1,001 characters"),
        ("a\0cat", {}, "input[0]", "NUL"),
        ("a cat", {"instruction": "a\0b"}, "input[0]", "NUL"),
        ("a cat", {"instruction": ["a", "b"]}, "instruction", "2 instructions for 1"),
        ("a cat", {"dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ("a cat", {"dimension": 16}, "dimension", "not permitted"),
        ("a cat", {"encoding_format": "hex"}, "encoding_format", "float"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], {}, "input[0]", "at most one"),
        ([{"type": "sound", "sound": "a"}], {}, "input[0]", "content part"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,%%%"}}], {}, "input[0]", "not base64"),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], {}, "input[0]", "not base64"),
        ([{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}], {}, "input[0]", "switched off"),
        ([image_part(bomb(20_000, 20_000))], {}, "input[0]", "pixels"),
        ([image_part(bomb(100_000, 11))], {}, "input[0]", "100000x11"),
        ([image_part(b"<svg xmlns='http://www.w3.org/2000/svg'/>")], {}, "input[0]", "PNG, JPEG"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(
    gateway: RunningGateway, content: Any, more: dict[str, Any], param: str, said: str
) -> None:
    found = error(gateway.ask(content, **more), 400)
    assert found["param"] == param and said in found["message"] and found["type"] == "invalid_request_error"


def post(gateway: RunningGateway, body: bytes, kind: str = "application/json") -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/v1/embeddings", content=body, headers={"content-type": kind}, trust_env=False, timeout=30
    )


def test_bodies_that_are_no_requests(gateway: RunningGateway) -> None:
    for body in (b"", b"{", b"[]", b'{"input": "\\ud800"}', b"[" * 100_000, b'{"input":' + b"[" * 50_000, b"\xff\xfe"):
        error(post(gateway, body), 400)
    assert error(post(gateway, json.dumps({"input": "x" * 2_000_000}).encode()), 413)["code"] == "too_many_bytes"
    assert error(post(gateway, b"[" + b"1," * 900_000 + b"1]"), 400)["message"]
    assert error(post(gateway, b"{}", "text/plain"), 415)["code"] == "content_type"
    assert error(gateway.get("/v1/nothing"), 404) and error(gateway.get("/v1/embeddings"), 405)
    assert gateway.ask("a cat").status_code == 200


def test_a_body_without_a_length_is_counted_as_it_comes(gateway: RunningGateway) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < 50_000_000:
            sent += 100_000
            yield b" " * 100_000

    try:
        answer = httpx.post(
            f"{gateway.url}/v1/embeddings", content=endless(), headers={"content-type": "application/json"}, timeout=30
        )
        error(answer, 413)
    except httpx.WriteError:
        pass  # the gateway has closed the connection before all was sent
    assert sent < 50_000_000


def test_the_gateway_says_whether_the_model_answers(gateway: RunningGateway) -> None:
    assert gateway.get("/healthz").json() == {"alive": True}
    found = gateway.get("/readyz")
    assert found.status_code == 200
    facts = found.json()
    assert facts["ready"] and facts["version"] == 2 and facts["dimension"] == 32 and facts["age_seconds"] <= 1.5


def test_what_was_answered_is_counted(gateway: RunningGateway) -> None:
    def counted() -> float:
        lines = gateway.get("/metrics").text.splitlines()
        name = 'embedline_gateway_requests_total{status="200",target="embedder",version="2"}'
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = counted()
    gateway.ask(["a cat", "a dog"])
    assert counted() == before + 1
    stable = gateway.get("/v1/routes").json()["stable"]
    assert stable["version"] == 2 and stable["requests"] > 0 and stable["p95_ms"] >= stable["p50_ms"] > 0


def test_the_openapi_page_describes_the_body(gateway: RunningGateway) -> None:
    page = gateway.get("/openapi.json").json()
    body = page["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = page["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert {"input", "dimensions", "instruction", "on_error"} <= set(schema["properties"])
    assert gateway.get("/docs").status_code == 200

"""The endpoint answers what the embedder answers in process, item by item, and says clearly what it cannot answer."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tritonclient.utils import InferenceServerException

from components.corpus.item import Item
from components.embedder.runtime import Runtime, normalise
from components.errors import EmbedlineError, UsageError
from serving import TritonEmbedder, TritonServer
from serving.client import MAX_BATCH_BYTES, batches, connect
from serving.triton import as_input

Png = Callable[..., bytes]


@pytest.fixture
def items(png: Png, tmp_path: Path) -> list[Item]:
    """Every kind of item: text, image as bytes, as path and as image, both, with instruction, beyond ASCII."""
    path = tmp_path / "blue.png"
    path.write_bytes(png("blue"))
    return [
        Item(text="a sad cat"),
        Item(image=png("red")),
        Item(image=path),
        Item(text="dog", image=Image.new("RGB", (16, 16), "green")),
        Item(text="cat", image=png("yellow", (7, 31)), instruction="find the image"),
        Item(text="cat", instruction="find"),
        Item(text="größe \N{CAT FACE}\0red"),
    ]


def encoded_in_process(bundle: Path, items: list[Item]) -> np.ndarray:
    """Returns what the runtime that the bundle ships answers for one item at a time."""
    runtime = Runtime(bundle / "version", threads=1)
    return np.concatenate([runtime.encode([item.text], [file_of(item.image)], [item.instruction]) for item in items])


def file_of(image: Any) -> Any:
    if not isinstance(image, Image.Image):
        return image
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("version", [1, 2])
def test_every_kind_of_item_is_answered_as_in_process(
    server: TritonServer, bundles: tuple[Path, Path], items: list[Item], version: int
) -> None:
    answers = TritonEmbedder(server.url, version=version).encode(items)
    expected = encoded_in_process(bundles[version - 1], items)
    other = encoded_in_process(bundles[2 - version], items)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers, expected, atol=1e-5)
    assert (answers * other).sum(axis=1).max() < 0.9, "the other version must differ"


def test_without_a_number_the_highest_version_answers(server: TritonServer, items: list[Item]) -> None:
    latest = TritonEmbedder(server.url).encode(items)
    np.testing.assert_array_equal(latest, TritonEmbedder(server.url, version=2).encode(items))


def test_many_items_come_back_in_order(server: TritonServer, items: list[Item]) -> None:
    whole = TritonEmbedder(server.url, version=1).encode(items * 3)
    embedder = TritonEmbedder(server.url, version=1)
    assert embedder.max_batch_size == 64
    embedder.max_batch_size = 3
    np.testing.assert_allclose(embedder.encode(items * 3), whole, atol=1e-5)
    np.testing.assert_allclose(whole[: len(items)], whole[len(items) : 2 * len(items)], atol=1e-5)


def test_batches_are_bounded_in_rows_and_bytes() -> None:
    large = (b"", b"x" * (MAX_BATCH_BYTES // 2 + 1), b"")
    small = (b"cat", b"", b"")
    made = list(batches([small] * 5 + [large, large, small], max_rows=2))
    assert [(start, len(batch)) for start, batch in made] == [(0, 2), (2, 2), (4, 2), (6, 2)]
    made = list(batches([large] * 3, max_rows=64))
    assert [(start, len(batch)) for start, batch in made] == [(0, 1), (1, 1), (2, 1)]


def test_more_items_than_the_server_takes_at_once_are_sent_in_parts(server: TritonServer) -> None:
    assert TritonEmbedder(server.url, version=1).encode([Item(text="a sad cat")] * 130).shape == (130, 32)


def test_dimension_is_measured_and_no_item_is_no_row(server: TritonServer) -> None:
    embedder = TritonEmbedder(server.url, version=1)
    assert embedder.dimension == 32
    assert embedder.encode([]).shape == (0, 32)


def test_joined_requests_are_batched_and_answered_each_to_its_own(
    server: TritonServer, bundles: tuple[Path, Path], items: list[Item]
) -> None:
    expected = encoded_in_process(bundles[0], items)
    shared = False
    for _ in range(5):  # on a busy machine requests may come one by one
        before = execution_counts(server)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda item: TritonEmbedder(server.url, version=1).encode([item])[0], items * 30))
        np.testing.assert_allclose(np.stack(answers), np.tile(expected, (30, 1)), atol=1e-5)
        requests, executions = (after - start for after, start in zip(execution_counts(server), before, strict=True))
        assert requests == len(answers)
        shared = shared or executions < requests
    assert shared, "concurrent requests must share executions"


def test_a_broken_image_fails_only_its_own_request(server: TritonServer, png: Png) -> None:
    def outcome(item: Item) -> str:
        try:
            TritonEmbedder(server.url, version=1).encode([item])
        except EmbedlineError as error:
            return error.problem
        return "answered"

    queue = [Item(image=b"broken") if number % 7 == 0 else Item(image=png("red")) for number in range(70)]
    with ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(outcome, queue))
    for number, got in enumerate(outcomes):
        assert ("cannot be decoded" in got) if number % 7 == 0 else (got == "answered"), (number, got)


def test_a_broken_image_is_named_by_its_position(server: TritonServer, png: Png) -> None:
    embedder = TritonEmbedder(server.url, version=1)
    embedder.max_batch_size = 4
    items = [Item(image=png("red"))] * 5 + [Item(image=b"\x89PNG\r\n cut off")]
    with pytest.raises(EmbedlineError, match=r"refused item 6: the image cannot be decoded"):
        embedder.encode(items)


def test_a_broken_image_of_a_file_is_named_by_its_file(server: TritonServer, tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n cut off")
    with pytest.raises(EmbedlineError, match=r"refused item 2 \(.*cut\.png\): the image cannot be decoded"):
        TritonEmbedder(server.url, version=1).encode([Item(text="cat"), Item(image=tmp_path / "cut.png")])


def test_a_version_that_is_not_served_is_no_fault_of_an_item(server: TritonServer) -> None:
    with pytest.raises(EmbedlineError, match=r"cannot answer by embedder/99: .*version 99 is not found"):
        TritonEmbedder(server.url, version=99).encode([Item(text="cat")])


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(server: TritonServer, png: Png) -> None:
    with pytest.raises(EmbedlineError, match="pixels are read"):
        TritonEmbedder(server.url, version=1).encode([Item(image=png("red", (9000, 9000)))])


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        (Item(), "item 2 has neither text nor image"),
        (Item(instruction="find"), "item 2 has neither text nor image"),
        (Item(text="cat", video=(b"frame",)), r"item 2 \('cat'\) is a video"),
        (Item(image=Path("missing.png")), r"item 2 \(missing.png\) cannot be read"),
    ],
)
def test_an_item_that_cannot_be_sent_is_named(server: TritonServer, item: Item, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        TritonEmbedder(server.url).encode([Item(text="cat"), item])


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [({"TEXT": ""}, "neither text nor image"), ({"IMAGE": "broken"}, "cannot be decoded"), ({}, "input")],
)
def test_a_bare_request_without_content_gets_its_own_error(
    server: TritonServer, inputs: dict[str, str], problem: str
) -> None:
    status, answer = post(server, inputs)
    assert status == 400
    assert problem in answer["error"]


def test_text_that_is_not_utf_8_is_refused(server: TritonServer) -> None:
    with connect(server.url, 10) as client, pytest.raises(InferenceServerException, match="must be UTF-8"):
        client.infer("embedder", [as_input("TEXT", np.array([[b"\xff\xfe"]], object))], "1")


def test_a_bare_request_may_leave_inputs_out(server: TritonServer) -> None:
    status, answer = post(server, {"TEXT": "a sad cat"})
    expected = TritonEmbedder(server.url, version=1).encode([Item(text="a sad cat")])[0]
    assert status == 200
    np.testing.assert_allclose(answer["outputs"][0]["data"], expected, atol=1e-6)


def test_a_dimension_that_the_model_was_trained_for_is_cut_and_normalised_again(
    server: TritonServer, items: list[Item]
) -> None:
    embedder = TritonEmbedder(server.url)
    whole = embedder.encode(items)
    half = whole.shape[1] // 2
    with ThreadPoolExecutor(8) as pool:  # joined in one batch with requests for all numbers
        answers = list(pool.map(lambda wanted: embedder.encode(items, wanted), [half, None] * 8))
    for answer in answers[::2]:
        assert answer.shape == (len(items), half)
        np.testing.assert_allclose(answer, normalise(whole[:, :half]), atol=1e-6)
    for answer in answers[1::2]:
        np.testing.assert_allclose(answer, whole, atol=1e-6)
    assert np.linalg.norm(whole[:, :half], axis=1).max() < 0.99, "cut alone, they are shorter"


@pytest.mark.parametrize("dimension", [1, 31, 33, -16])
def test_another_dimension_is_refused_with_those_that_there_are(server: TritonServer, dimension: int) -> None:
    with pytest.raises(EmbedlineError, match=f"dimension {dimension} is none of 32, 16") as raised:
        TritonEmbedder(server.url).encode([Item("a cat")], dimension)
    assert raised.value.remedy == "Ask for one of these."


def test_no_server_is_a_clear_error() -> None:
    with pytest.raises(EmbedlineError, match=r"no Triton answers at 127\.0\.0\.1:9") as caught:
        TritonEmbedder("127.0.0.1:9").encode([Item(text="cat")])
    assert "embedline serve" in caught.value.remedy


def test_a_version_that_is_not_served_is_a_clear_error(server: TritonServer) -> None:
    with pytest.raises(EmbedlineError, match="embedder/9"):
        TritonEmbedder(server.url, version=9).encode([Item(text="cat")])


def post(server: TritonServer, inputs: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """Returns status and answer of a JSON request to version 1, as any program could send it."""
    tensors = [{"name": name, "datatype": "BYTES", "shape": [1, 1], "data": [value]} for name, value in inputs.items()]
    request = urllib.request.Request(
        f"http://{server.url}/v2/models/embedder/versions/1/infer", json.dumps({"inputs": tensors}).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.request.HTTPError as error:
        return error.code, json.load(error)


def execution_counts(server: TritonServer) -> tuple[int, int]:
    """Returns how many items version 1 answered so far, and in how many executions."""
    with urllib.request.urlopen(f"http://{server.url}/v2/models/embedder/versions/1/stats", timeout=10) as answer:
        (stats,) = json.load(answer)["model_stats"]
    return stats["inference_count"], stats["execution_count"]

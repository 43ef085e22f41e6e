"""Batching across requests, without a server: what is sent together, what waits, who leaves, what fails alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from components.gateway import Gateway
from serving.client import Row
from serving.gateway.batcher import Answer, Batcher
from serving.gateway.inference import Limits, Vectors
from serving.gateway.metrics import Metrics
from serving.gateway.refusal import Refusal
from serving.routes import Target

TARGET = Target("embedder", 1)


class HeldInference:
    """Stands in for Triton: answers a row by its text's number, once it is let go; a text `bad` is refused."""

    def __init__(self) -> None:
        self.calls: list[tuple[Target, list[str], int | None, str]] = []
        self.open = asyncio.Event()
        self.version = 1

    async def limits(self, target: Target, seconds: float) -> Limits:
        return Limits(batch=8, instances=2)

    async def infer(
        self, target: Target, rows: Sequence[Row], dimension: int | None, request_id: str, seconds: float
    ) -> Vectors:
        texts = [text.decode() for text, _, _ in rows]
        self.calls.append((target, texts, dimension, request_id))
        await self.open.wait()
        if "down" in texts:
            raise Refusal(503, "down", code="model_down")
        if "bad" in texts:
            raise Refusal(400, "bad", code="bad_item")
        return Vectors(np.array([[float(text)] for text in texts], np.float32), self.version)


def run(test: Callable[[HeldInference, Batcher], Awaitable[Any]], **settings: Any) -> None:
    async def main() -> None:
        inference = HeldInference()
        batcher = Batcher(inference, Gateway(port=0, **settings), Metrics())  # type: ignore[arg-type]
        await test(inference, batcher)
        assert batcher.waiting == 0 and not batcher.lanes

    asyncio.run(asyncio.wait_for(main(), 10))


def ask(batcher: Batcher, *texts: str, dimension: int | None = None, name: str = "") -> asyncio.Task[Answer]:
    rows = [(text.encode(), b"", b"") for text in texts]
    deadline = time.monotonic() + 5
    return asyncio.create_task(batcher.encode(TARGET, rows, dimension, name or texts[0], deadline))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def values(answer: Answer) -> list[float | str]:
    return [result.message if isinstance(result, Refusal) else float(result[0]) for result in answer.results]


def test_what_arrives_meanwhile_goes_together() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        asked = [ask(batcher, str(number)) for number in range(8)]
        await settle()
        assert [texts for _, texts, _, _ in inference.calls] == [["0"], ["1"]], "at once, one for each instance"
        assert batcher.waiting == 6
        inference.open.set()
        assert [values(await each) for each in asked] == [[float(number)] for number in range(8)]
        assert [texts for _, texts, _, _ in inference.calls[2:]] == [["2", "3", "4", "5", "6", "7"]]
        assert inference.calls[2][3] == "2,3,4,5,6,7", "the ids of the requests reach Triton"

    run(test)


def test_the_number_of_batches_in_flight_can_be_set() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        asked = [ask(batcher, str(number)) for number in range(4)]
        await settle()
        assert [texts for _, texts, _, _ in inference.calls] == [["0"]]
        inference.open.set()
        await asyncio.gather(*asked)
        assert [texts for _, texts, _, _ in inference.calls[1:]] == [["1", "2", "3"]]

    run(test, in_flight=1)


def test_batches_are_no_larger_than_the_model_takes_and_answers_in_order() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        inference.open.set()
        texts = [str(number) for number in range(21)]
        assert values(await ask(batcher, *texts)) == [float(text) for text in texts]
        assert max(len(texts) for _, texts, _, _ in inference.calls) == 8

    run(test)


def test_lengths_are_not_mixed() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        asked = [ask(batcher, str(number), dimension=number % 2 + 1) for number in range(8)]
        await settle()
        inference.open.set()
        await asyncio.gather(*asked)
        assert all(len({int(text) % 2 for text in texts}) == 1 for _, texts, _, _ in inference.calls)
        assert {dimension for _, _, dimension, _ in inference.calls} == {1, 2}

    run(test)


def test_a_bad_item_fails_alone() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        first = [ask(batcher, "0"), ask(batcher, "1")]
        await settle()
        mixed, other = ask(batcher, "2", "bad", "3"), ask(batcher, "4")
        await settle()
        inference.open.set()
        assert values(await mixed) == [2.0, "bad", 3.0] and values(await other) == [4.0]
        await asyncio.gather(*first)

    run(test)


def test_an_item_without_a_vector_spoils_no_other() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        first = [ask(batcher, "0"), ask(batcher, "1")]
        await settle()
        mixed, other = ask(batcher, "2", "nan", "inf"), ask(batcher, "4")
        inference.open.set()
        without = "the model has no vector for this item"
        assert values(await mixed) == [2.0, without, without] and values(await other) == [4.0]
        await asyncio.gather(*first)

    run(test)


def test_a_full_queue_refuses_and_empties() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        asked = [ask(batcher, str(number)) for number in range(6)]
        await settle()
        with pytest.raises(Refusal) as caught:
            await ask(batcher, "6")
        assert caught.value.status == 503 and caught.value.headers["retry-after"] == "1"
        inference.open.set()
        await asyncio.gather(*asked)
        assert values(await ask(batcher, "7")) == [7.0]

    run(test, max_waiting_items=4)


def test_who_leaves_is_not_computed() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        asked = [ask(batcher, str(number)) for number in range(5)]
        await settle()
        asked[3].cancel()
        await settle()
        assert batcher.waiting == 2
        inference.open.set()
        await asyncio.gather(*asked, return_exceptions=True)
        assert "3" not in [text for _, texts, _, _ in inference.calls for text in texts]

    run(test)


def test_a_dead_server_is_reported_to_all_and_blamed_on_none() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        inference.open.set()
        with pytest.raises(Refusal) as caught:
            await ask(batcher, "0", "down")
        assert caught.value.status == 503 and len(inference.calls) == 1
        assert values(await ask(batcher, "1")) == [1.0]

    run(test)


def test_vectors_of_two_versions_are_never_one_answer() -> None:
    async def test(inference: HeldInference, batcher: Batcher) -> None:
        asked = ask(batcher, *map(str, range(20)))
        await settle()
        inference.open.set()
        await asyncio.sleep(0)
        inference.version = 2
        with pytest.raises(Refusal, match="changed"):
            await asked

    run(test)

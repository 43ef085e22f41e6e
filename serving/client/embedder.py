"""One client for whatever serves the model: the gateway (`http://`, `https://`) or Triton (`triton://`)."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from PIL import Image

from components.corpus.item import Item
from components.errors import EmbedlineError, UsageError
from serving.client.gateway import Gateway
from serving.client.inputs import Input, Instruction, as_items
from serving.client.retries import Unavailable, pause
from serving.client.triton import MAX_BATCH_BYTES, Row, TritonEmbedder, as_row, batches, triton_at

Result = TypeVar("Result")


class Place(Protocol):
    """What answers one batch, and says by which model."""

    max_batch_bytes: int

    async def encode_batch(
        self, items: Sequence[Item], start: int, batch: Sequence[Row], dimension: int | None, seconds: float
    ) -> tuple[np.ndarray, str]: ...

    async def close(self) -> None: ...


class Triton:
    """A Triton server; its client blocks, so a thread asks it."""

    max_batch_bytes = MAX_BATCH_BYTES

    def __init__(self, embedder: TritonEmbedder) -> None:
        self.embedder = embedder

    async def encode_batch(
        self, items: Sequence[Item], start: int, batch: Sequence[Row], dimension: int | None, seconds: float
    ) -> tuple[np.ndarray, str]:
        encode = self.embedder.encode_rows
        return await asyncio.to_thread(encode, items, start, batch, dimension, seconds), self.embedder.name

    async def close(self) -> None:
        """Nothing stays open."""


class AsyncEmbedder:
    """Encodes texts and images by the server at `url`; belongs to one event loop.

    `url` is the gateway's, `http://HOST:PORT`, or `triton://HOST:PORT/MODEL/VERSION`, where model and version may be
    left out. `api_key` and `user` are for the gateway: during a canary, one version answers all requests of one user,
    who is this object if nobody is named. `timeout_seconds` bounds a whole call: all its batches, retries and pauses.
    `query_instruction` goes with the queries of `embed_query`.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "embedder",
        api_key: str | None = None,
        user: str | None = None,
        timeout_seconds: float = 60,
        query_instruction: str | None = None,
    ) -> None:
        self.url = url
        self.timeout_seconds = timeout_seconds
        self.query_instruction = query_instruction
        self.place: Place
        if url.startswith(("http://", "https://")):
            self.place = Gateway(url, model, api_key, user or secrets.token_hex(8))
        elif url.startswith("triton://"):
            self.place = Triton(triton_at(url))
        else:
            raise UsageError(
                f"{url}: is no address of a server", "Write it as http://127.0.0.1:8080 or triton://127.0.0.1:8000."
            )

    async def encode(
        self,
        inputs: Input | Sequence[Input],
        instruction: Instruction = None,
        dimension: int | None = None,
        batch_size: int = 64,
        normalize_embeddings: bool = True,
        convert_to_numpy: bool = True,
    ) -> np.ndarray:
        """Returns `(n, dimension)` float32, L2-normalised; `(dimension,)` for one input that is not in a list.

        `dimension` is that of the model, or a Matryoshka dimension of it. `batch_size` is the most items in one
        request; large items go in smaller ones. The last two arguments are those of sentence-transformers and can only
        be true. Raises `Unavailable` if the server cannot answer although it was asked several times, `EmbedlineError`
        if it refuses an item, answers wrong or takes longer than `timeout_seconds`, and `UsageError` if an input is
        none.
        """
        if not (normalize_embeddings and convert_to_numpy):
            raise UsageError("vectors come as numpy arrays of length 1", "Leave out what asks for others.")
        if isinstance(inputs, str | bytes | Path | Image.Image | Item):
            alone: np.ndarray = (await self.encode([inputs], instruction, dimension))[0]
            return alone
        items = as_items(inputs, instruction)
        if not items:
            return np.empty((0, dimension or len(await self.encode("dimension"))), np.float32)
        try:
            async with asyncio.timeout(self.timeout_seconds) as timeout:
                models: set[str] = set()
                while len(models) != 1:  # a call that two versions have answered begins again
                    ready = batches(map(as_row, count(), items), batch_size, self.place.max_batch_bytes)
                    parts, models = [], set()
                    while found := await asyncio.to_thread(next, ready, None):
                        vectors, answered_by = await self._encode_batch(items, *found, dimension, timeout.when() or 0)
                        parts.append(vectors)
                        models.add(answered_by)
                return np.concatenate(parts)
        except TimeoutError as error:
            raise EmbedlineError(
                f"{self.url} took longer than {self.timeout_seconds:g} s", "raise timeout_seconds, or send fewer items"
            ) from error

    async def _encode_batch(
        self, items: Sequence[Item], start: int, batch: Sequence[Row], dimension: int | None, ends: float
    ) -> tuple[np.ndarray, str]:
        clock, tries = asyncio.get_running_loop().time, 0
        while True:
            try:
                return await self.place.encode_batch(items, start, batch, dimension, max(ends - clock(), 0.001))
            except Unavailable as error:
                tries += 1
                await asyncio.sleep(pause(tries, error, ends - clock()))

    async def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Returns a vector for each text, as LangChain asks for them."""
        vectors: list[list[float]] = (await self.encode(texts)).tolist()
        return vectors

    async def embed_query(self, text: str) -> list[float]:
        """Returns the vector of one query, as LangChain asks for it."""
        vector: list[float] = (await self.encode(text, self.query_instruction)).tolist()
        return vector

    async def close(self) -> None:
        await self.place.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Embedder:
    """`AsyncEmbedder` for code that is not asynchronous: the same arguments and answers.

    Threads may share one. Its connections live in an event loop of its own, which a thread runs; a process that was
    forked from this one opens its own.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "embedder",
        api_key: str | None = None,
        user: str | None = None,
        timeout_seconds: float = 60,
        query_instruction: str | None = None,
    ) -> None:
        self.url = url
        self.name = f"{model} at {url}"
        self._make = partial(
            AsyncEmbedder,
            url,
            model=model,
            api_key=api_key,
            user=user,
            timeout_seconds=timeout_seconds,
            query_instruction=query_instruction,
        )
        self._lock = threading.Lock()
        self._open()

    @cached_property
    def dimension(self) -> int:
        """The length of a vector, measured on an answer."""
        return len(self.encode("dimension"))

    def encode(
        self,
        inputs: Input | Sequence[Input],
        instruction: Instruction = None,
        dimension: int | None = None,
        batch_size: int = 64,
        normalize_embeddings: bool = True,
        convert_to_numpy: bool = True,
    ) -> np.ndarray:
        """Returns `(n, dimension)` float32, L2-normalised; see `AsyncEmbedder.encode`."""
        given = inputs, instruction, dimension, batch_size, normalize_embeddings, convert_to_numpy
        return self._run(lambda embedder: embedder.encode(*given))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Returns a vector for each text, as LangChain asks for them."""
        return self._run(lambda embedder: embedder.embed_documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """Returns the vector of one query, as LangChain asks for it."""
        return self._run(lambda embedder: embedder.embed_query(text))

    def close(self) -> None:
        self._run(lambda embedder: embedder.close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        self._embedder = self._make()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._process = os.getpid()

    def _run(self, work: Callable[[AsyncEmbedder], Coroutine[Any, Any, Result]]) -> Result:
        with self._lock:
            if self._process != os.getpid():  # threads and connections do not cross a fork
                self._open()
        future = asyncio.run_coroutine_threadsafe(work(self._embedder), self._loop)
        try:
            return future.result()
        except BaseException:  # Ctrl-C too ends what is under way
            future.cancel()
            raise

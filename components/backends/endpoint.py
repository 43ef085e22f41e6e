"""Embeddings from an HTTP endpoint in the manner of OpenAI: `POST URL/embeddings`.

That API has texts, and no images. Two extensions are common, and the user says which one the endpoint `takes`:
`objects`, a batch of `{"text": ..., "image": ...}` in `input` (Jina, SGLang), or `messages`, one chat a request (vLLM).
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import httpx
import numpy as np
from PIL import Image

from components.embedder.embedders import Vectors
from components.embedder.runtime import UnreadableImage, load_image, normalise
from components.errors import EmbedlineError, UsageError

if TYPE_CHECKING:
    from components.corpus.item import ImageSource, Item

Takes = Literal["text", "objects", "messages"]
Encoding = Literal["float", "base64"]
PROBE = "a probe, to tell one model from another"
KEY, OPENAI_KEY, OPENAI = "EMBEDLINE_ENDPOINT_KEY", "OPENAI_API_KEY", "https://api.openai.com/"
ATTEMPTS = 5
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
REQUESTS_AT_ONCE = 4


class EndpointEmbedder:
    """Encodes items with one model of an endpoint; an item's instruction stands before its text, or, where the endpoint
    takes messages, in the system message.

    The key comes from `EMBEDLINE_ENDPOINT_KEY`, or, for OpenAI's own host alone, from `OPENAI_API_KEY`. Raises
    `UsageError` if the URL is none, or if `takes` or `encoding` is unknown.
    """

    def __init__(
        self,
        url: str,
        model: str,
        batch_size: int = 32,
        takes: Takes = "text",
        encoding: Encoding = "float",
        timeout_seconds: float = 60,
    ) -> None:
        for name, value, known in (("takes", takes, get_args(Takes)), ("encoding", encoding, get_args(Encoding))):
            if value not in known:
                raise UsageError(f"{url}: {name} is {value!r}", f"Known are {', '.join(known)}.")
        self.name = model
        parsed = _parsed(url)
        self.url = parsed.copy_with(path=f"{parsed.path.rstrip('/')}/embeddings", fragment=None)
        self.place = f"{self.url.scheme}://{self.url.netloc.decode()}{self.url.path}"
        self.batch_size = 1 if takes == "messages" else batch_size
        self.takes = takes
        self.encoding = encoding
        self.timeout_seconds = timeout_seconds
        self.key = os.environ.get(KEY) or (os.environ.get(OPENAI_KEY) if str(self.url).startswith(OPENAI) else None)

    @cached_property
    def probe(self) -> Vectors:
        """The vector of `PROBE`, asked for alone, `(1, dimension)`."""
        with self._client() as client:
            return self._ask(client, [{"text": PROBE}], 0)

    @property
    def dimension(self) -> int:
        """The length of a vector, measured on an answer."""
        return int(self.probe.shape[1])

    def encode(self, items: Sequence[Item]) -> Vectors:
        """Returns `(n, dimension)` float32, L2-normalised.

        A request is tried again after 429, 5xx, a timeout or a broken connection, at most `ATTEMPTS` times in all.
        Raises `EmbedlineError` if the endpoint does not answer, refuses, or answers with something else than one finite
        vector of one length for each item; `UsageError` that names an item which the endpoint does not take.
        """
        vectors = np.empty((len(items), self.dimension), np.float32)

        def fill(start: int) -> None:
            batch = items[start : start + self.batch_size]
            contents = [self._content(start + place, item) for place, item in enumerate(batch)]
            answer = self._ask(client, contents, start)
            if answer.shape[1] != self.dimension:
                raise self._unusable(start, f"vectors of length {answer.shape[1]}, and {self.dimension} before")
            vectors[start : start + len(batch)] = answer

        with self._client() as client, ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            for _ in pool.map(fill, range(0, len(items), self.batch_size)):
                pass
        return normalise(vectors)

    def _client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return httpx.Client(headers=headers, timeout=self.timeout_seconds)

    def _content(self, position: int, item: Item) -> dict[str, str]:
        """Returns the item's text, image and instruction as they travel, each only if it is there."""
        if item.is_empty:
            raise UsageError(f"item {position} has neither text nor image", "Send text, an image, or both.")
        if item.video or (item.image and self.takes == "text"):
            raise UsageError(
                f"item {position} is {'a video' if item.video else 'of an image'}, and {self.place} takes "
                f"{'no video' if self.takes != 'text' else 'text'}",
                "Choose sets of text. If the endpoint takes images, say how: "
                "URL?takes=objects#MODEL (Jina, SGLang) or URL?takes=messages#MODEL (vLLM).",
            )
        text, instruction = item.text or "", item.instruction or ""
        if self.takes != "messages":
            text, instruction = " ".join(filter(None, (instruction, text))), ""
        image = _data_url(position, item.image) if item.image else ""
        fields = {"text": text, "image": image, "instruction": instruction}
        return {name: value for name, value in fields.items() if value}

    def _ask(self, client: httpx.Client, contents: Sequence[dict[str, str]], start: int) -> Vectors:
        """Returns the vectors `(len(contents), length)` in the order of the contents; `start` places them in errors."""
        request: dict[str, Any] = {"model": self.name, "encoding_format": self.encoding}
        if self.takes == "text":
            request["input"] = [content["text"] for content in contents]
        elif self.takes == "objects":
            request["input"] = contents
        else:
            request["messages"] = _messages(*contents)
        response = self._post(client, request)
        if response.status_code != httpx.codes.OK:
            said = response.text.replace(self.key, "***") if self.key else response.text
            raise EmbedlineError(
                f"{self.place} refuses the items from {start} for {self.name}: {response.status_code} {said[:300]}",
                f"Look at the URL and the model's name; a key belongs in {KEY}.",
            )
        try:
            data = response.json()["data"]
            by_index = {entry["index"]: _decode(entry["embedding"]) for entry in data}
            vectors = np.stack([by_index[index] for index in range(len(contents))])
        except (ValueError, KeyError, TypeError) as error:
            raise self._unusable(start, f"no list of vectors ({type(error).__name__}: {error})") from error
        if len(data) != len(contents) or vectors.ndim != 2:
            raise self._unusable(start, f"{len(data)} vectors of shape {vectors.shape[1:]} for {len(contents)} items")
        if not np.isfinite(vectors).all():
            raise self._unusable(start + int(np.argmin(np.isfinite(vectors).all(axis=1))), "values that are no numbers")
        return vectors

    def _post(self, client: httpx.Client, request: dict[str, Any]) -> httpx.Response:
        """Returns the first answer that is neither 429 nor 5xx."""
        problem, wait = "", 0.0
        for attempt in range(ATTEMPTS):
            time.sleep(min(wait, LONGEST_WAIT_SECONDS))
            wait = FIRST_WAIT_SECONDS * 2**attempt
            try:
                response = client.post(self.url, json=request)
            except httpx.ConnectError as error:
                raise EmbedlineError(
                    f"no endpoint answers at {self.place}: {error}", "Start it, or correct the URL."
                ) from error
            except httpx.TransportError as error:
                problem = f"{type(error).__name__} after at most {self.timeout_seconds:g} s"
                continue
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS and not response.is_server_error:
                return response
            problem = f"status {response.status_code}"
            wanted = response.headers.get("Retry-After", "")
            wait = float(wanted) if wanted.isdigit() else wait
        raise EmbedlineError(
            f"{self.place}: {problem}, {ATTEMPTS} times", "Look at the endpoint's log, or try again later."
        )

    def _unusable(self, position: int, what: str) -> EmbedlineError:
        return EmbedlineError(
            f"{self.place}: {self.name} answers the items from {position} with {what}", "Look at the endpoint's log."
        )


def endpoint_at(address: str, batch_size: int) -> EndpointEmbedder:
    """Returns the embedder of `URL#MODEL`; `takes` and `encoding` may stand in the URL's query. Raises as the embedder
    does, and `UsageError` if no model is named."""
    place, _, model = address.partition("#")
    if not model:
        raise UsageError(f"{place}: names no model", f"Write {place}#MODEL.")
    url = _parsed(place)
    options: dict[str, Any] = {name: url.params[name] for name in ("takes", "encoding") if name in url.params}
    for name in options:
        url = url.copy_remove_param(name)
    return EndpointEmbedder(str(url), model, batch_size, **options)


def _parsed(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url}: no URL: {error}", "Write it as https://HOST/v1.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise UsageError(
            f"{parsed.host or url}: no URL of an endpoint", f"Write https://HOST/v1; a key belongs in {KEY}."
        )
    return parsed


def _messages(content: dict[str, str]) -> list[dict[str, Any]]:
    """Returns the item as one chat, its image before its text."""
    parts: list[dict[str, Any]] = []
    if "image" in content:
        parts.append({"type": "image_url", "image_url": {"url": content["image"]}})
    if "text" in content:
        parts.append({"type": "text", "text": content["text"]})
    messages: list[dict[str, Any]] = [{"role": "user", "content": parts}]
    if "instruction" in content:
        messages.insert(0, {"role": "system", "content": content["instruction"]})
    return messages


def _data_url(position: int, source: ImageSource) -> str:
    """Returns the image's own bytes as a data URL; one in memory travels as PNG."""
    try:
        if isinstance(source, Image.Image):
            stream = io.BytesIO()
            load_image(source).save(stream, "PNG")
            data = stream.getvalue()
        else:
            data = source.read_bytes() if isinstance(source, Path) else source
        with Image.open(io.BytesIO(data)) as image:
            kind = image.get_format_mimetype()
    except (OSError, UnreadableImage) as error:
        where = f"{source}: " if isinstance(source, Path) else ""
        raise UsageError(f"item {position}: {where}{error}", "Name an image that can be read.") from error
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _decode(embedding: list[float] | str) -> Vectors:
    """Returns a vector that travelled as numbers, or as the base64 of little-endian float32."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").astype(np.float32)
    return np.array(embedding, np.float32)

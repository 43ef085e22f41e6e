"""The gateway, or whatever else speaks OpenAI's `/v1/embeddings` with content parts, as a place that answers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import numpy as np

from components.corpus.item import Item
from components.embedder.runtime import normalise
from components.errors import EmbedlineError
from serving.client.retries import Unavailable
from serving.client.triton import Row, named

CONNECT_SECONDS = 5
MAX_BATCH_BYTES = 8_000_000
"""The most bytes of items in one request; base64 makes them a third more."""
LATER = (429, 502, 503, 504)
"""The answers that say that the same request may succeed later."""
POSITION = re.compile(r"input\D*(\d+)")
"""How an error's `param` names the item of a request, counted from 0."""
SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}


class Gateway:
    """Sends batches to the gateway at `url`, whose connections it keeps open."""

    max_batch_bytes = MAX_BATCH_BYTES

    def __init__(self, url: str, model: str, api_key: str | None, user: str) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self.user = user
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        self.client = httpx.AsyncClient(headers=headers)

    async def encode_batch(
        self, items: Sequence[Item], start: int, batch: Sequence[Row], dimension: int | None, seconds: float
    ) -> tuple[np.ndarray, str]:
        """Returns `(n, dimension)` float32 for the rows of the items from position `start` on, and the model's name and
        version.

        Raises `Unavailable` if it may be tried again, and `EmbedlineError` if not.
        """
        timeout = httpx.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds))
        body = request_body(batch, self.model, dimension, self.user)
        try:
            response = await self.client.post(f"{self.url}/v1/embeddings", content=body, timeout=timeout)
        except httpx.TransportError as error:
            problem = f"no gateway answers at {self.url} ({str(error) or type(error).__name__})"
            raise Unavailable(problem, "start it with `embedline serve`; if it was running, see its log") from error
        except httpx.InvalidURL as error:
            raise EmbedlineError(f"{self.url}: is no address: {error}", "Write it as http://127.0.0.1:8080.") from error
        if response.status_code != httpx.codes.OK:
            raise explain(self.url, response, items, start)
        try:
            return read_answer(response.content, len(batch))
        except (ValueError, TypeError, KeyError) as error:
            raise EmbedlineError(
                f"{self.url} answers not as an embeddings endpoint does: {error}",
                "check the address; if it is that of the gateway, see its log",
            ) from error

    async def close(self) -> None:
        await self.client.aclose()


def request_body(batch: Sequence[Row], model: str, dimension: int | None, user: str) -> bytes:
    """Returns the JSON of a request; what is not given is left out."""
    instructions = [instruction.decode() or None for _, _, instruction in batch]
    optional = {"dimensions": dimension, "instruction": instructions if any(instructions) else None}
    body = {
        "model": model,
        "input": [content_parts(text, image) for text, image, _ in batch],
        "encoding_format": "base64",
        "user": user,
        **{name: value for name, value in optional.items() if value is not None},
    }
    return json.dumps(body).encode()


def content_parts(text: bytes, image: bytes) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text.decode()}] if text else []
    if image:
        kind = next((kind for start, kind in SIGNATURES.items() if image.startswith(start)), "unknown")
        url = f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def read_answer(body: bytes, count: int) -> tuple[np.ndarray, str]:
    """Returns `(count, dimension)` float32, L2-normalised, and the model's name and version.

    Raises `ValueError`, `TypeError` or `KeyError` if the answer is another one.
    """
    answer = json.loads(body)
    entries = sorted(answer["data"], key=lambda entry: int(entry["index"]))
    if [entry["index"] for entry in entries] != list(range(count)):
        raise ValueError(f"{len(entries)} vectors for {count} items, or not one for each")
    vectors = np.stack([np.frombuffer(base64.b64decode(entry["embedding"], validate=True), "<f4") for entry in entries])
    if not vectors.size or not np.isfinite(vectors).all():
        raise ValueError("a vector is empty, or has values that are no numbers")
    return normalise(vectors), str(answer["model"])


def explain(url: str, response: httpx.Response, items: Sequence[Item], start: int) -> EmbedlineError:
    """Returns the error of an answer that is none; a bad item is named by its place among all items."""
    try:
        error = response.json()["error"]
        message, param = str(error["message"]), str(error.get("param") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        message, param = response.reason_phrase or "no reason given", ""
    if response.status_code in LATER:
        after = retry_after(response.headers.get("Retry-After", ""))
        return Unavailable(f"{url} cannot answer now ({response.status_code}): {message}", "try again later", after)
    found = POSITION.match(param)
    if found and (position := start + int(found[1])) < len(items):
        return EmbedlineError(
            f"{url} refused {named(position, items[position])}: {message}", "replace that item or leave it out"
        )
    return EmbedlineError(f"{url} refused the request ({response.status_code}): {message}", "change what it names")


def retry_after(header: str) -> float:
    """Returns the seconds that a Retry-After header asks for, given as such or as a date; 0 if it asks for none."""
    if header.isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0

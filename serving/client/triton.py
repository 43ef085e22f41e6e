"""Embeddings from the served model: the same `encode` as every other embedder, over Triton's HTTP endpoint."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from geventhttpclient.response import HTTPParseError
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from components.backends.directory import Unopened
from components.backends.endpoint import PROBE
from components.backends.open import find_embedder, probed_fingerprint
from components.corpus.item import Item
from components.embedder import Embedder
from components.embedder.runtime import load_image, normalise
from components.errors import EmbedlineError, UsageError
from serving.client.retries import Unavailable

if TYPE_CHECKING:
    from components.backends.multi_vector import MultiVectorEmbedder

MAX_BATCH_BYTES = 32_000_000
INPUTS = ("TEXT", "IMAGE", "INSTRUCTION")
DIMENSION = "DIMENSION"
"""An input, because Triton's response cache does not tell requests apart by their parameters."""
BAD_REQUEST, OVERLOADED = "400", "503"
DEAD_PROCESS = "is not healthy"
"""What Triton's python backend says of a model version whose process has ended."""
POSITION = re.compile(r"item (\d+): (.*)", re.DOTALL)
"""How `triton_model.py` names the item of a request that it refuses, counted from 0."""
BAD_DIMENSION = "dimension "
"""How `triton_model.py` begins when it refuses a dimension."""
SHOWN_CHARACTERS = 40

Row = tuple[bytes, bytes, bytes]


class TritonEmbedder:
    """Encodes items with one model of a running Triton server; `version` None is the highest served one.

    Each call opens its own connection, so that threads may share one object.
    """

    def __init__(
        self, url: str, model: str = "embedder", version: int | None = None, timeout_seconds: float = 60
    ) -> None:
        self.url = url
        self.model = model
        self.version = version
        self.timeout_seconds = timeout_seconds

    @property
    def name(self) -> str:
        return f"{self.model}/{self.version or 'latest'}"

    @cached_property
    def dimension(self) -> int:
        """The length of a vector, measured on an answer."""
        return len(self.encode([Item(text="dimension")])[0])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the model, the same for all its versions, as the server has it."""
        with connect(self.url, self.timeout_seconds) as client:
            config: dict[str, Any] = client.get_model_config(self.model)
        return config

    @cached_property
    def max_batch_size(self) -> int:
        """The most items that the server takes in one request."""
        return int(self.config["max_batch_size"])

    def encode(self, items: Sequence[Item], dimension: int | None = None) -> np.ndarray:
        """Returns `(n, dimension)` float32, L2-normalised; `dimension` is that of the model, or a Matryoshka dimension
        of it. Raises `EmbedlineError` if the server does not answer, or refuses an item or the dimension."""
        if not items:
            return np.empty((0, dimension or self.dimension), np.float32)
        rows = (as_row(position, item) for position, item in enumerate(items))
        return self.encode_rows(items, 0, rows, dimension, self.timeout_seconds)

    def encode_rows(
        self, items: Sequence[Item], first: int, rows: Iterable[Row], dimension: int | None, timeout_seconds: float
    ) -> np.ndarray:
        """Returns what `encode` does, for the rows of the items from position `first` on."""
        with connect(self.url, timeout_seconds) as client:
            parts = []
            for start, batch in batches(rows, self.max_batch_size):
                try:
                    parts.append(self.infer(client, batch, dimension))
                except InferenceServerException as error:
                    raise self._explain(error, items, first + start, len(batch)) from error
            return np.concatenate(parts)

    def infer(self, client: InferenceServerClient, batch: Sequence[Row], dimension: int | None = None) -> np.ndarray:
        """Returns what `encode` does, for one request over a connection that is open already. Raises Triton's own
        `InferenceServerException` if the model refuses."""
        inputs = [InferInput(name, [len(batch), 1], "BYTES") for name in INPUTS]
        for tensor, column in zip(inputs, zip(*batch, strict=True), strict=True):
            tensor.set_data_from_numpy(np.array(column, object).reshape(-1, 1), binary_data=True)
        parameters = None
        if dimension and any(entry["name"] == DIMENSION for entry in self.config["input"]):
            inputs.append(InferInput(DIMENSION, [len(batch), 1], "INT32"))
            inputs[-1].set_data_from_numpy(np.full((len(batch), 1), dimension, np.int32), binary_data=True)
        elif dimension:  # a version that was packaged before it had that input
            parameters = {"dimension": dimension}
        output = InferRequestedOutput("EMBEDDING", binary_data=True)
        answer = client.infer(self.model, inputs, str(self.version or ""), outputs=[output], parameters=parameters)
        vectors = answer.as_numpy("EMBEDDING")
        if vectors.shape[0] != len(batch) or not np.isfinite(vectors).all():
            raise EmbedlineError(
                f"{self.name} answered {vectors.shape} for {len(batch)} items, or values that are no numbers",
                "load the version again, or go back to the previous one",
            )
        return normalise(vectors)

    def _explain(
        self, error: InferenceServerException, items: Sequence[Item], start: int, count: int
    ) -> EmbedlineError:
        """Returns the error that tells a bad item (it is named) from a model or server that cannot answer any."""
        message, status = str(error.message()), str(error.status())
        if DEAD_PROCESS in message:
            return EmbedlineError(
                f"the model process of {self.name} has died on the server at {self.url}",
                "`embedline serve` loads it again within seconds: ask then; the server's log may say why it died",
            )
        if status != BAD_REQUEST:
            kind = Unavailable if status == OVERLOADED else EmbedlineError
            return kind(f"Triton at {self.url} cannot answer by {self.name}: {message}", "see the server's log")
        if message.startswith(BAD_DIMENSION):
            return EmbedlineError(f"{self.name}: {message}", "Ask for one of these.")
        if found := POSITION.match(message):
            position = start + int(found[1])
            blamed, message = named(position, items[position]), found[2]
        elif count == 1:
            blamed = named(start, items[start])
        else:
            blamed = f"one of the items {start + 1} to {start + count}"
        return EmbedlineError(f"{self.name} refused {blamed}: {message}", "replace that item or leave it out")


def open_triton(address: str) -> tuple[TritonEmbedder, str]:
    """Returns the embedder at `triton://HOST:PORT/MODEL/VERSION` and its fingerprint, made of a probe's vector too.

    Without a version it is the highest served one. Raises `UsageError` if the address is none, `EmbedlineError` if
    nothing answers there.
    """
    embedder = triton_at(address)
    return embedder, probed_fingerprint(embedder.encode([Item(PROBE)]), address)


def triton_at(address: str) -> TritonEmbedder:
    """Returns the embedder at `triton://HOST:PORT/MODEL/VERSION`, unasked. Raises `UsageError` if it is no address."""
    place = urlsplit(address)
    name, _, version = place.path.strip("/").partition("/")
    if not place.netloc or not (version.isdecimal() or not version):
        raise UsageError(f"{address}: is no address", "Write it as triton://127.0.0.1:8000/embedder/1.")
    return TritonEmbedder(place.netloc, name or "embedder", int(version) if version else None)


def open_model(model: str, batch_size: int, root: Path) -> tuple[Embedder | MultiVectorEmbedder | Unopened, str]:
    """Returns the embedder, opened or not, and its fingerprint: `triton://HOST:PORT/MODEL/VERSION`, `models:/NAME/3`,
    `models:/NAME@champion`, or what `components.backends.open.find_embedder` takes.

    Image paths of precomputed vectors are relative to `root`. Raises as `open_triton`, `open_registered` and
    `find_embedder` do.
    """
    if model.startswith("triton://"):
        return open_triton(model)
    if model.startswith("models:/"):
        return open_registered(model, batch_size)
    return find_embedder(model, batch_size, root, remember_images=True)


def open_registered(reference: str, batch_size: int) -> tuple[Unopened, str]:
    """Returns a registered version of this workspace, computed by the runtime in its bundle, and its fingerprint.

    Raises `UsageError` if there is no such version, `EmbedlineError` if its bytes are not those that were registered.
    """
    from components.registry import models, tracking  # MLflow takes seconds

    if (tracked := tracking.find(Path())) is None:
        raise UsageError(f"{reference}: no round has run here yet", "Run one with `embedline run`.")
    version = models.resolve(tracked, reference)
    found, identity = find_embedder(str(models.fetched(tracked, version) / "version"), batch_size, remember_images=True)
    assert isinstance(found, Unopened), "a bundle is a directory with its runtime"
    return replace(found, name=f"{tracked.model}/{version}"), identity


@contextmanager
def connect(url: str, timeout_seconds: float) -> Iterator[InferenceServerClient]:
    """Yields a client of the server at `url` (`host:port`); a broken connection and a refusal that the caller does not
    explain become an `EmbedlineError`."""
    client = InferenceServerClient(url, connection_timeout=5, network_timeout=timeout_seconds)
    try:
        yield client
    except TimeoutError as error:
        raise EmbedlineError(
            f"Triton at {url} took longer than {timeout_seconds:g} s", "see the server's log"
        ) from error
    except (OSError, HTTPParseError) as error:
        raise Unavailable(
            f"no Triton answers at {url} ({error})", "start it with `embedline serve`; if it was running, see its log"
        ) from error
    except InferenceServerException as error:
        raise EmbedlineError(f"Triton at {url} refuses: {error.message()}", "see the server's log") from error
    finally:
        client.close()


def batches(rows: Iterable[Row], max_rows: int, max_bytes: int = MAX_BATCH_BYTES) -> Iterator[tuple[int, list[Row]]]:
    """Yields the rows in order, each batch with the position of its first row; a batch is bounded in rows and, unless
    it is a single row, in bytes."""
    start, size, batch = 0, 0, list[Row]()
    for row in rows:
        row_bytes = sum(map(len, row))
        if batch and (len(batch) == max_rows or size + row_bytes > max_bytes):
            yield start, batch
            start, size, batch = start + len(batch), 0, []
        batch.append(row)
        size += row_bytes
    if batch:
        yield start, batch


def as_row(position: int, item: Item) -> Row:
    """Returns the item's text, encoded image and instruction as they travel; what is missing is empty."""
    if item.video or item.is_empty:
        problem = "is a video, which the served model does not take" if item.video else "has neither text nor image"
        raise UsageError(f"{named(position, item)} {problem}", "send text, an image, or both")
    return (item.text or "").encode(), image_bytes(position, item), (item.instruction or "").encode()


def image_bytes(position: int, item: Item) -> bytes:
    match item.image:
        case None:
            return b""
        case Image.Image() as image:
            buffer = io.BytesIO()
            load_image(image).save(buffer, "PNG")
            return buffer.getvalue()
        case Path() as path:
            try:
                return path.read_bytes()
            except OSError as error:
                raise UsageError(
                    f"{named(position, item)} cannot be read: {error.strerror}", "name an image"
                ) from error
        case data:
            return data


def named(position: int, item: Item) -> str:
    """Returns how a message names an item: its place, counted from 1, and its image file or the start of its text."""
    if isinstance(item.image, Path):
        return f"item {position + 1} ({item.image})"
    if item.text:
        return f"item {position + 1} ({item.text[:SHOWN_CHARACTERS]!r})"
    return f"item {position + 1}"

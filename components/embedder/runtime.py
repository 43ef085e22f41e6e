"""The embedder as it is served: numpy, ONNX Runtime, tokenizers and Pillow, and OpenVINO for its own graphs alone.

This one file is copied into every bundle and is also what the evaluation loads, so that the model that
is scored is the model that answers. It therefore imports nothing of this project.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from PIL import ExifTags, Image, ImageOps
from tokenizers import Tokenizer

DESCRIPTION = "embedder.json"
MAX_IMAGE_BYTES = 20_000_000
MAX_IMAGE_PIXELS = 40_000_000


Colours = tuple[float, float, float]
ImageSource: TypeAlias = bytes | str | Path | Image.Image


class UnreadableImage(ValueError):
    """An image that is too large, broken or of an unknown format."""


@dataclass(frozen=True)
class Description:
    """What `embedder.json` says about the model beside it.

    `instruction_weight` is how much an item's instruction counts beside its text and its image, which count 1.
    """

    dimension: int
    image_size: int
    image_mean: Colours
    image_std: Colours
    max_tokens: int
    instruction_weight: float
    matryoshka_dimensions: tuple[int, ...]

    @classmethod
    def read(cls, directory: Path) -> Description:
        return cls(**described(directory / DESCRIPTION))


def described(file: Path) -> dict[str, Any]:
    """Returns the fields of a description, lists as tuples."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def load_image(source: ImageSource) -> Image.Image:
    """Returns the image as RGB on white, turned as its EXIF data say; 16 bits of grey become 8.

    Of several frames it is the first. Raises `UnreadableImage` before a large one is decoded.
    """
    if isinstance(source, bytes) and len(source) > MAX_IMAGE_BYTES:
        raise UnreadableImage(f"the image has {len(source):,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
    try:
        image = (
            source
            if isinstance(source, Image.Image)
            else Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
        )
        if image.width * image.height > MAX_IMAGE_PIXELS:
            size = f"{image.width}x{image.height}"
            raise UnreadableImage(f"the image is {size}; at most {MAX_IMAGE_PIXELS:,} pixels are read")
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if image.mode == "RGB":
            image.load()
            return image
        if image.mode.startswith("I;16"):  # Pillow would cut off what is brighter than 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage("the image cannot be decoded; send PNG, JPEG, WebP or GIF") from error


def pixel_values(
    images: Sequence[ImageSource], description: Description, pool: ThreadPoolExecutor | None = None
) -> np.ndarray:
    """Returns `(n, 3, size, size)` float32: each image padded to a square on white, resized, standardised.

    Raises `UnreadableImage`.
    """
    size = description.image_size
    mean = np.asarray(description.image_mean, np.float32)
    std = np.asarray(description.image_std, np.float32)
    levels = (np.arange(256, dtype=np.float32)[:, None] / 255 - mean) / std
    pixels = np.empty((len(images), 3, size, size), np.float32)

    def fill(row: int) -> None:
        brightness = np.asarray(square(load_image(images[row]), size))
        for channel in range(3):
            np.take(levels[:, channel], brightness[..., channel], out=pixels[row, channel])

    for_each(fill, range(len(images)), pool)
    return pixels


def image_threads(threads: int | None) -> ThreadPoolExecutor | None:
    """Returns threads that prepare images, which Pillow does outside of Python's lock; None where one is enough."""
    count = threads or os.cpu_count() or 1
    return ThreadPoolExecutor(count, "images") if count > 1 else None


def for_each(function: Callable[[Any], Any], items: Sequence[Any], pool: ThreadPoolExecutor | None) -> list[Any]:
    """Returns what the function makes of each item. Raises what it raises for the first one that it fails for."""
    if pool is None or len(items) < 2:
        return [function(item) for item in items]
    return list(pool.map(function, items))


def square(image: Image.Image, size: int) -> Image.Image:
    """Returns the RGB image scaled to fit `(size, size)`, centred on white."""
    if image.size == (size, size):
        return image
    scale = size / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    fitted = image.resize((width, height), Image.Resampling.BILINEAR)
    if fitted.size == (size, size):
        return fitted
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(fitted, ((size - fitted.width) // 2, (size - fitted.height) // 2))
    return canvas


def normalise(vectors: np.ndarray) -> np.ndarray:
    """Returns the rows as float32 with Euclidean norm 1; a zero row stays zero."""
    vectors = np.asarray(vectors, np.float32)
    normalised: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return normalised


PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
"""What ONNX Runtime computes graphs with, the fastest first, as ONNX Runtime calls it."""


def graph(directory: Path, name: str) -> Path:
    """Returns the file of a graph: OpenVINO's where there is one, else the ONNX one."""
    found = directory / f"{name}.xml"
    return found if found.is_file() else directory / f"{name}.onnx"


def session(path: Path, threads: int | None = None, provider: str = "auto") -> Session:
    """Returns what runs the graph in a file, by its type: ONNX Runtime, or OpenVINO.

    `auto` takes the fastest provider that works on this machine. Raises `RuntimeError` if the one that is named does
    not, and if the machine lacks what an OpenVINO graph needs.
    """
    if path.suffix == ".xml":
        if provider not in ("auto", "cpu"):
            raise RuntimeError(
                f"{path.name} is a graph of OpenVINO, which computes on the processor, not on {provider}"
            )
        return OpenVinoSession(path, threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or os.cpu_count() or 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    there = onnxruntime.get_available_providers()
    wanted = [name for kind, name in PROVIDERS.items() if provider in ("auto", kind) and name in there]
    if not wanted:
        here = ", ".join(kind for kind, name in PROVIDERS.items() if name in there)
        raise RuntimeError(f"ONNX Runtime has no provider {provider} here; it has {here}")
    opened = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    if provider not in ("auto", taken := provider_of(opened)):
        raise RuntimeError(f"ONNX Runtime has fallen back from the provider {provider} to {taken}; its log says why")
    return opened


def provider_of(opened: Session) -> str:
    """Returns what computes a graph: `tensorrt`, `cuda`, `cpu`, or `openvino`."""
    if isinstance(opened, OpenVinoSession):
        return "openvino"
    return {name: kind for kind, name in PROVIDERS.items()}[opened.get_providers()[0]]


class OpenVinoSession:
    """Runs an OpenVINO graph on the processor, in the precision that the graph itself names (`RT_INFO`).

    Raises `RuntimeError` if OpenVINO is not installed, or if the processor would only emulate that precision.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise RuntimeError(f"{path.name} needs OpenVINO, which is not installed: pip install openvino") from error
        core = openvino.Core()
        model = core.read_model(path)
        precision = str(model.get_rt_info(list(RT_INFO)).value)
        if precision == "bf16" and "BF16" not in (has := core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
            raise RuntimeError(f"{path.name} is to be computed in bf16, and this processor has {', '.join(has)} only")
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads or os.cpu_count() or 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.compiled = core.compile_model(model, "CPU", settings)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs of these names, as ONNX Runtime's sessions do."""
        found = self.compiled.infer_new_request(dict(inputs))  # copies: a request's own memory is written again
        return [found[name] for name in outputs]


Session: TypeAlias = onnxruntime.InferenceSession | OpenVinoSession
RT_INFO = ("embedline", "precision")
"""Where an OpenVINO graph says in which precision it is to be computed: `f32` or `bf16`."""
Encode = Callable[[list[Any]], np.ndarray]


def sum_of_parts(
    texts: Sequence[str | None],
    images: Sequence[ImageSource | None],
    instructions: Sequence[str | None],
    encode_texts: Encode,
    encode_images: Encode,
    dimension: int,
    instruction_weight: float,
    batch_size: int,
) -> np.ndarray:
    """Returns `(n, dimension)` float32: each row's weighted sum over the vectors of its parts, L2-normalised.

    Text and image count 1. Every different text and image is encoded once, `batch_size` at a time, texts of like length
    together. Raises `ValueError` if a row has neither text nor image.
    """
    empty = [row for row in range(len(texts)) if not (texts[row] or images[row])]
    if empty:
        raise ValueError(f"item {empty[0]} has neither text nor image")
    total = np.zeros((len(texts), dimension), np.float32)
    for words, weight in ((texts, 1.0), (instructions, instruction_weight)):
        if weight:
            _add(total, words, weight, encode_texts, batch_size)
    sources = {_identity(image): image for image in images if image}
    keys = [_identity(image) if image else None for image in images]
    _add(total, keys, 1.0, lambda batch: encode_images([sources[key] for key in batch]), batch_size)
    return normalise(total)


class Runtime:
    """Encodes text, images, and both together, with the two graphs of one directory.

    `provider` is what computed them: see `session`, which raises if that is not possible.
    """

    def __init__(
        self, directory: Path, threads: int | None = None, batch_size: int = 64, provider: str = "auto"
    ) -> None:
        self.description = Description.read(directory)
        self.batch_size = batch_size
        self.pool = image_threads(threads)
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.description.max_tokens)
        self.tokenizer.enable_padding()
        self.text_session = session(graph(directory, "text"), threads, provider)
        self.image_session = session(graph(directory, "image"), threads, provider)
        self.provider = provider_of(self.image_session)

    def encode(
        self,
        texts: Sequence[str | None],
        images: Sequence[ImageSource | None],
        instructions: Sequence[str | None],
    ) -> np.ndarray:
        """Returns `(n, dimension)` float32, L2-normalised; see `sum_of_parts`."""
        return sum_of_parts(
            texts,
            images,
            instructions,
            self.encode_texts,
            self.encode_images,
            self.description.dimension,
            self.description.instruction_weight,
            self.batch_size,
        )

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        encodings = self.tokenizer.encode_batch_fast(texts)
        inputs = {
            "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], np.int64),
        }
        vectors: np.ndarray = self.text_session.run(["sentence_embedding"], inputs)[0]
        return vectors

    def encode_images(self, images: list[Any]) -> np.ndarray:
        pixels = pixel_values(images, self.description, self.pool)
        vectors: np.ndarray = self.image_session.run(["image_embedding"], {"pixel_values": pixels})[0]
        return vectors


def _identity(image: Any) -> Any:
    """Returns what tells images apart: paths and bytes by their value, decoded ones by which object they are."""
    return image if isinstance(image, Hashable) else id(image)


def _add(total: np.ndarray, parts: Sequence[Any], weight: float, encode: Encode, batch_size: int) -> None:
    """Adds to `total` the weighted vectors of the parts that are there, each different part computed once."""
    rows: dict[Any, list[int]] = {}
    for row, part in enumerate(parts):
        if part:
            rows.setdefault(part, []).append(row)
    different = sorted(rows, key=lambda part: len(part) if isinstance(part, str) else 0)
    for start in range(0, len(different), batch_size):
        batch = different[start : start + batch_size]
        vectors = np.float32(weight) * np.asarray(encode(batch))
        where = [(row, number) for number, part in enumerate(batch) for row in rows[part]]
        taking, taken = np.array(where).T  # no row twice: it has one part of a kind
        total[taking] += vectors[taken]

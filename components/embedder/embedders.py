"""One interface for the embedder, whatever computes it: torch, or ONNX Runtime from an exported directory."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from components.embedder.runtime import pixel_values, sum_of_parts
from components.errors import EmbedlineError

if TYPE_CHECKING:
    from components.corpus.item import ImageSource, Item
    from components.embedder.dual_encoder import DualEncoder, Precision

Vectors = NDArray[np.float32]
RUNTIME = "runtime.py"
MOST_REMEMBERED = 65_536
"""How many images' vectors an embedder keeps where it is to remember them: of 384 numbers, 100 MB."""


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns items into vectors."""

    @property
    def name(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def encode(self, items: Sequence[Item]) -> Vectors:
        """Returns `(n, dimension)` float32, L2-normalised."""
        ...


class RememberedImages:
    """Encodes images, those at a path only once: an evaluation asks many questions about one image.

    Weights and files must stay as they are while it lives, and what proves something encodes anew.
    """

    def __init__(self, encode: Callable[[list[Any]], Vectors]) -> None:
        self.encode = encode
        self.vectors: dict[Path, Vectors] = {}

    def __call__(self, images: list[Any]) -> Vectors:
        known = [isinstance(image, Path) and image in self.vectors for image in images]
        missing = [image for image, is_known in zip(images, known, strict=True) if not is_known]
        encoded = list(self.encode(missing)) if missing else []
        fresh = iter(encoded)
        vectors = [
            self.vectors[image] if is_known else next(fresh) for image, is_known in zip(images, known, strict=True)
        ]
        for image, vector in zip(missing, encoded, strict=True):
            if isinstance(image, Path) and len(self.vectors) < MOST_REMEMBERED:
                self.vectors[image] = vector
        return np.stack(vectors)


class TorchEmbedder:
    """A dual encoder, or the directory of one, computed by torch where it lies: a directory's goes to the accelerator
    if there is one. In bfloat16, vectors are near those of float32.

    `remember_images` is for weights that stay as they are while the embedder lives; see `RememberedImages`.
    """

    def __init__(
        self,
        source: Path | DualEncoder,
        batch_size: int = 256,
        precision: Precision = "float32",
        remember_images: bool = False,
    ) -> None:
        from sentence_transformers.util import get_device_name

        from components.embedder.dual_encoder import load

        self.precision = precision
        self.name = source.name if isinstance(source, Path) else "dual encoder"
        self.encoder = load(source).to(get_device_name()) if isinstance(source, Path) else source
        self.device = self.encoder.model.device
        self.dimension = self.encoder.description.dimension
        self.batch_size = batch_size
        self.encode_images = RememberedImages(self._encode_images) if remember_images else self._encode_images

    def encode(self, items: Sequence[Item]) -> Vectors:
        return sum_of_parts(
            *parts(items),
            self._encode_texts,
            self.encode_images,
            self.dimension,
            self.encoder.description.instruction_weight,
            self.batch_size,
        )

    def _encode_texts(self, texts: list[str]) -> Vectors:
        import torch
        from sentence_transformers.util import batch_to_device

        from components.embedder.dual_encoder import autocast

        tokens = batch_to_device(self.encoder.tokens(texts), self.device)
        with torch.inference_mode(), autocast(self.precision, self.device):
            vectors: Vectors = self.encoder.embed_text(**tokens).float().cpu().numpy()
        return vectors

    def _encode_images(self, images: list[Any]) -> Vectors:
        import torch

        from components.embedder.dual_encoder import autocast

        pixels = pixel_values(images, self.encoder.description)
        with torch.inference_mode(), autocast(self.precision, self.device):
            vectors: Vectors = self.encoder.embed_images(torch.from_numpy(pixels).to(self.device)).cpu().numpy()
        return vectors


class OnnxEmbedder:
    """An exported directory, or the version folder of a bundle, computed by its own `runtime.py`, as the server does.

    That file runs here as any program does: open what you or your registry packaged, and nothing of a stranger's. With
    `remember_images`, one that encodes images by themselves encodes each file once, see `RememberedImages`. Without a
    named `provider` it takes the fastest that works here; `provider` says which. Raises `EmbedlineError` if there is no
    such file, if it does not run, or if the machine lacks what it needs.
    """

    def __init__(
        self,
        directory: Path,
        batch_size: int = 64,
        threads: int | None = None,
        remember_images: bool = False,
        provider: str = "auto",
    ) -> None:
        self.name = directory.name
        named = {} if provider == "auto" else {"provider": provider}
        try:
            self.runtime = own_runtime(directory / RUNTIME)(directory, threads, batch_size, **named)
        except RuntimeError as error:
            remedy = "Install what it lacks, or choose another serving.variant or serving.provider."
            raise EmbedlineError(f"{directory}: cannot be computed here: {error}", remedy) from error
        self.provider: str = getattr(self.runtime, "provider", "cpu")  # bundles of before had no other
        self.dimension: int = self.runtime.description.dimension
        if remember_images and hasattr(self.runtime, "encode_images"):
            self.runtime.encode_images = RememberedImages(self.runtime.encode_images)

    def encode(self, items: Sequence[Item]) -> Vectors:
        vectors: Vectors = self.runtime.encode(*parts(items))
        return vectors


def own_runtime(file: Path) -> Any:
    """Returns the class `Runtime` of a `runtime.py`, whose code runs. Raises `EmbedlineError` if it fails."""
    if not file.is_file():
        raise EmbedlineError(f"{file}: no such file, and nothing else computes what lies beside it", "Export it again.")
    source = file.read_bytes()
    module = ModuleType(f"runtime_{hashlib.sha256(source).hexdigest()}")
    sys.modules[module.__name__] = module  # dataclasses look their module up here
    try:
        # an import would take bytecode for the source, and leave some among the files that a fingerprint covers
        exec(compile(source, str(file), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 (see `OnnxEmbedder`)
        return module.Runtime
    except Exception as error:  # whatever code that is not of this version does
        raise EmbedlineError(f"{file}: does not run: {error}", "Package the bundle again.") from error


def parts(items: Sequence[Item]) -> tuple[list[str | None], list[ImageSource | None], list[str | None]]:
    """Returns the texts, the images and the instructions of the items."""
    return [item.text for item in items], [item.image for item in items], [item.instruction for item in items]


def fingerprint(directory: Path, without: Path | None = None) -> str:
    """Returns one SHA-256 over all files of a model directory, `without` one of them: its weights, processor files and
    configuration."""
    digest = hashlib.sha256()
    for file in sorted(path for path in directory.rglob("*") if path.is_file() and path != without):
        with file.open("rb") as stream:
            digest.update(f"{file.relative_to(directory).as_posix()}\0".encode())
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()

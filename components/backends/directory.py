"""Opens a model directory, or a model by its name on the hub: ours, exported or not, or sentence-transformers'."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.embedder import Embedder, OnnxEmbedder, TorchEmbedder, find_model
from components.embedder.embedders import RUNTIME
from components.embedder.pretrained import PACKAGED
from components.embedder.runtime import DESCRIPTION
from components.errors import EmbedlineError, UsageError

if TYPE_CHECKING:
    from components.backends.multi_vector import MultiVectorEmbedder

MODULES, CONFIGURATION = "modules.json", "config_sentence_transformers.json"
MATRYOSHKA = "matryoshka_dimensions"
"""What we add to that configuration; sentence-transformers reads over it."""
MULTI_VECTOR_TYPES = ("MultiVectorEncoder", "ColBERT")  # the latter is what PyLate writes


@dataclass(frozen=True)
class Unopened:
    """A model whose kind is known from its files. Opening it takes seconds, and its vectors may be known already."""

    name: str
    kind: type[Embedder | MultiVectorEmbedder]
    arguments: tuple[Any, ...]
    remember_images: bool | None = None

    def open(self) -> Embedder | MultiVectorEmbedder:
        known: Any = {} if self.remember_images is None else {"remember_images": self.remember_images}
        return self.kind(*self.arguments, **known)


def opened(embedder: Embedder | MultiVectorEmbedder | Unopened) -> Embedder | MultiVectorEmbedder:
    return embedder.open() if isinstance(embedder, Unopened) else embedder


def open_directory(model: str, batch_size: int, remember_images: bool = False) -> Embedder | MultiVectorEmbedder:
    """Returns the embedder of a directory, or of what the hub has under that name where `HF_HUB_OFFLINE=0`.

    With `remember_images`, one of ours encodes each image file once. Raises `UsageError` if it is no model directory,
    or an exported one of the hub's, whose `runtime.py` would run here, and `EmbedlineError` if it cannot be fetched.
    """
    return unopened_directory(model, batch_size, remember_images).open()


def unopened_directory(model: str, batch_size: int, remember_images: bool = False) -> Unopened:
    """Returns what `open_directory` opens. Raises as it does, for what the files' names and settings show."""
    directory = find_directory(model)
    if (directory / RUNTIME).is_file() and not (directory / MODULES).is_file():
        if not Path(model).is_dir():
            raise UsageError(
                f"{model}: brings code of its own, {RUNTIME}, which would run here",
                f"Read {directory / RUNTIME}, and name that folder if you trust it.",
            )
        return Unopened(directory.name, OnnxEmbedder, (directory, batch_size), remember_images)
    if (directory / DESCRIPTION).is_file():
        return Unopened(directory.name, TorchEmbedder, (directory, batch_size), remember_images)
    if not (directory / MODULES).is_file():
        raise UsageError(
            f"{directory}: no model directory: it has neither {RUNTIME} nor {DESCRIPTION} nor {MODULES}",
            "Name one that `embedline` or sentence-transformers has written; of bare weights the pooling is not known.",
        )
    name = directory.name if Path(model).is_dir() else model
    configuration = _configuration(directory)
    kind = configuration.get("model_type", "SentenceTransformer")
    if kind in MULTI_VECTOR_TYPES or "query_prefix" in configuration:
        from components.backends.multi_vector import MultiVectorEmbedder

        return Unopened(name, MultiVectorEmbedder, (directory, batch_size, name))
    if kind != "SentenceTransformer":
        raise UsageError(f"{directory}: is a {kind}", "Name a SentenceTransformer or a MultiVectorEncoder.")
    from components.backends.sentence_transformer import SentenceTransformerEmbedder

    return Unopened(name, SentenceTransformerEmbedder, (directory, batch_size, name))


def find_directory(model: str) -> Path:
    """Returns the directory of that name, or that of the package or the hub's model of that name."""
    if Path(model).is_dir():
        return Path(model)
    if model in PACKAGED and (packaged := Path(find_model(model))).is_dir():
        return packaged
    if os.environ.get("HF_HUB_OFFLINE") != "0":
        raise UsageError(
            f"{model}: no such directory, and the model hub is switched off",
            "Name a local directory, or allow the hub with HF_HUB_OFFLINE=0.",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model))
    except (OSError, ValueError) as error:
        raise EmbedlineError(f"{model}: the model hub does not give it: {error}", "Look at the name.") from error


def transformers_type(directory: Path) -> str | None:
    """Returns what transformers calls the model that a sentence-transformers directory begins with.

    None if it begins with none, or if the directory is no such one.
    """
    try:
        first = json.loads((directory / MODULES).read_text(encoding="utf-8"))[0]
        config = json.loads((directory / first["path"] / "config.json").read_text(encoding="utf-8"))
        return str(config["model_type"]) if first["type"].endswith(".Transformer") else None
    except (OSError, ValueError, LookupError, TypeError):  # whatever else it is, it is none of these
        return None


def _configuration(directory: Path) -> dict[str, Any]:
    file = directory / CONFIGURATION
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file}: {error}", "Get the model again.") from error


def write_matryoshka_dimensions(directory: Path, sizes: Sequence[int]) -> None:
    """Adds to a directory that sentence-transformers has written to how many numbers its vectors may be cut."""
    file = directory / CONFIGURATION
    known = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**known, MATRYOSHKA: list(sizes)}, indent=2, ensure_ascii=False) + "\n", "utf-8")


def matryoshka_dimensions(directory: Path) -> tuple[int, ...]:
    """Returns to how many numbers the vectors of a model of sentence-transformers may be cut; none where none is
    known. Raises `UsageError` if its settings cannot be read."""
    return tuple(_configuration(directory).get(MATRYOSHKA, ()))

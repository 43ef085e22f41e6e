"""Opens any model by what the user calls it: a directory, a name on the hub, an endpoint, or a folder of vectors."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.embedder.backends import Embedder, OnnxEmbedder, TorchEmbedder, Vectors, fingerprint
from components.embedder.pretrained import PACKAGED, find_model
from components.embedder.runtime import DESCRIPTION
from components.errors import EmbedlineError, UsedWrongly

if TYPE_CHECKING:
    from components.embedder.multi_vector import MultiVectorEmbedder

VECTORS_PREFIX = "vectors:"
GRAPH, MODULES, CONFIGURATION = "text.onnx", "modules.json", "config_sentence_transformers.json"
MULTI_VECTOR_TYPES = ("MultiVectorEncoder", "ColBERT")  # the latter is what PyLate writes


def open_embedder(model: str, batch_size: int, root: Path = Path()) -> tuple[Embedder | MultiVectorEmbedder, str]:
    """Returns the embedder and its fingerprint.

    `model` is one of: a directory of ours, exported or not, or of sentence-transformers, single- or multi-vector; a
    name on the model hub where `HF_HUB_OFFLINE=0`; `https://HOST/v1#MODEL`, an endpoint, where `?takes=` and
    `?encoding=` before the `#` are those of `EndpointEmbedder`; `vectors:FOLDER`, its image paths relative to `root`.

    A directory and a folder are known by the bytes of their files, an endpoint by `probed_fingerprint`. Raises
    `UsedWrongly` if it is none of these, `EmbedlineError` if it cannot be fetched.
    """
    if model.startswith(("http://", "https://")):
        from components.embedder.endpoint import endpoint_at

        endpoint = endpoint_at(model, batch_size)
        return endpoint, probed_fingerprint(endpoint.probe, model)
    if model.startswith(VECTORS_PREFIX):
        from components.embedder.precomputed import PrecomputedEmbedder

        folder = Path(model.removeprefix(VECTORS_PREFIX))
        return PrecomputedEmbedder(folder, root), fingerprint(folder)
    directory = find_directory(model)
    return _open_directory(directory, batch_size, model), fingerprint(directory)


def probed_fingerprint(probe: Vectors, *address: str) -> str:
    """Returns one SHA-256 of where a model is asked, by which name, and of what it answers to a fixed item.

    A server shows no weights to hash. Its address says what was asked, not what answered: the weights behind a name can
    be exchanged, and vectors of the old ones must then not pass for the new ones'. The probe's vector, bit by bit,
    changes with them. A server whose answer to the probe varies is taken for another model each time, and nothing of
    it is resumed: no number rather than a wrong one.
    """
    digest = hashlib.sha256(json.dumps(address).encode())
    digest.update(probe.astype("<f4").tobytes())
    return digest.hexdigest()


def _open_directory(directory: Path, batch_size: int, model: str) -> Embedder | MultiVectorEmbedder:
    if (directory / GRAPH).is_file():
        return OnnxEmbedder(directory, batch_size)
    if (directory / DESCRIPTION).is_file():
        return TorchEmbedder(directory, batch_size)
    if not (directory / MODULES).is_file():
        raise UsedWrongly(
            f"{directory}: no model directory: it has neither {GRAPH} nor {DESCRIPTION} nor {MODULES}",
            "Name one that `embedline` or sentence-transformers has written; of bare weights the pooling is not known.",
        )
    name = directory.name if Path(model).is_dir() else model
    configuration = _configuration(directory)
    kind = configuration.get("model_type", "SentenceTransformer")
    if kind in MULTI_VECTOR_TYPES or "query_prefix" in configuration:
        from components.embedder.multi_vector import MultiVectorEmbedder

        return MultiVectorEmbedder(directory, batch_size, name)
    if kind != "SentenceTransformer":
        raise UsedWrongly(f"{directory}: is a {kind}", "Name a SentenceTransformer or a MultiVectorEncoder.")
    from components.embedder.sentence_transformer import SentenceTransformerEmbedder

    return SentenceTransformerEmbedder(directory, batch_size, name)


def _configuration(directory: Path) -> dict[str, Any]:
    file = directory / CONFIGURATION
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    except (ValueError, TypeError) as error:
        raise UsedWrongly(f"{file}: {error}", "Get the model again.") from error


def find_directory(model: str) -> Path:
    """Returns the directory of that name, or that of the package or the hub's model of that name."""
    if Path(model).is_dir():
        return Path(model)
    if model in PACKAGED and (packaged := Path(find_model(model))).is_dir():
        return packaged
    if os.environ.get("HF_HUB_OFFLINE") != "0":
        raise UsedWrongly(
            f"{model}: no such directory, and the model hub is switched off",
            "Name a local directory, or allow the hub with HF_HUB_OFFLINE=0.",
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model))
    except (OSError, ValueError) as error:
        raise EmbedlineError(f"{model}: the model hub does not give it: {error}", "Look at the name.") from error

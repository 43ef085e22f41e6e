"""Opens any model by what the user calls it: a directory, a name on the hub, an endpoint, or a folder of vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.backends.directory import Unopened, find_directory, opened, unopened_directory
from components.embedder import Embedder, Vectors, fingerprint

if TYPE_CHECKING:
    from components.backends.multi_vector import MultiVectorEmbedder

VECTORS_PREFIX = "vectors:"


def open_embedder(
    model: str, batch_size: int, root: Path = Path(), remember_images: bool = False
) -> tuple[Embedder | MultiVectorEmbedder, str]:
    """Returns the embedder and its fingerprint. Raises as `find_embedder` does, or as the model does when it opens."""
    embedder, identity = find_embedder(model, batch_size, root, remember_images)
    return opened(embedder), identity


def find_embedder(
    model: str, batch_size: int, root: Path = Path(), remember_images: bool = False
) -> tuple[Embedder | MultiVectorEmbedder | Unopened, str]:
    """Returns the embedder, unopened where opening it would load weights, and its fingerprint; with `remember_images`,
    one of ours encodes each image file once.

    `model` is one of: a directory of ours, exported or not, or of sentence-transformers, single- or multi-vector; a
    name on the model hub where `HF_HUB_OFFLINE=0`; `https://HOST/v1#MODEL`, an endpoint, where `?takes=` and
    `?encoding=` before the `#` are those of `EndpointEmbedder`; `vectors:FOLDER`, its image paths relative to `root`.

    A directory and a folder are known by the bytes of their files, an endpoint by `probed_fingerprint`. Raises
    `UsageError` if it is none of these, `EmbedlineError` if it cannot be fetched.
    """
    if model.startswith(("http://", "https://")):
        from components.backends.endpoint import endpoint_at

        endpoint = endpoint_at(model, batch_size)
        return endpoint, probed_fingerprint(endpoint.probe, model)
    if model.startswith(VECTORS_PREFIX):
        from components.backends.precomputed import PrecomputedEmbedder

        folder = Path(model.removeprefix(VECTORS_PREFIX))
        return PrecomputedEmbedder(folder, root), fingerprint(folder)
    return unopened_directory(model, batch_size, remember_images), fingerprint(find_directory(model))


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

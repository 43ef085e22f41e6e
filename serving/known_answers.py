"""Items whose vectors are known, beside the model repository: what each deployed version must answer.

<home>/known_answers/<version>/    the parts of its bundle that `read_examples` reads
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from components.corpus import Item
from components.errors import EmbedlineError
from components.export import read_examples
from components.export.bundle import DESCRIPTION, read_bundle
from components.files import atomic_directory


def folder(repository: Path, version: int) -> Path:
    return repository.with_name("known_answers") / str(version)


def keep(repository: Path, bundle: Path, version: int) -> None:
    """Copies a bundle's examples and their vectors, whole or not at all."""
    described = read_bundle(bundle)
    images = [example["image"] for example in described.examples if example["image"]]
    with atomic_directory(folder(repository, version)) as partial:
        for name in (DESCRIPTION, described.expected, *images):
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle / name, partial / name)


def read(repository: Path, version: int) -> tuple[Sequence[Item], np.ndarray]:
    """Returns the items and their vectors, `(n, dimension)` float32. Raises `EmbedlineError` if there are none."""
    place = folder(repository, version)
    try:
        items, vectors = read_examples(place)
    except (OSError, ValueError, TypeError) as error:
        raise EmbedlineError(
            f"what version {version} must answer cannot be read: {error}",
            f"remove {place} and start `embedline serve` again: it fetches the version from the registry",
        ) from error
    if not items or len(items) != len(vectors):
        raise EmbedlineError(f"{place} has {len(items)} items and {len(vectors)} vectors", "package the model again")
    return items, vectors

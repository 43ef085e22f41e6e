"""What windows are compared with: how a model saw the held-out queries, or the first requests that it answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from components.embedder import Vectors
from components.errors import DataInvalid, UsageError
from components.files import atomic_file
from components.monitoring.config import Monitoring
from components.registry import models, tracking
from components.traffic import Window, read_column, read_window
from monitoring.report import Concepts


@dataclass(frozen=True)
class Known:
    """What a version's windows are compared with: requests that nothing is wrong with, vectors that the model was
    trained on `(m, dimension)`, and named concepts to explain others by."""

    reference: Window
    training: Vectors | None = None
    concepts: Concepts | None = None


NAMES = {"top1": "top_score", "modalities": "modality"}
"""What the arrays of a bundle's reference window are called in recorded traffic."""


def bundle_reference(path: Path) -> Window:
    """Returns the reference window of a bundle, its file `reference.npz`. Its norms are left out: they are those of
    normalised vectors, which say nothing of the model's own.

    Raises `UsageError` if there is no such file, `DataInvalid` if it is no reference window.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file", "Run `embedline run`, or name a healthy period as the reference.")
    try:
        with np.load(path) as arrays:
            vectors = arrays["vectors"]
            columns = {ours: _column(arrays[name]) for name, ours in NAMES.items()}
    except (KeyError, ValueError, OSError) as error:
        raise DataInvalid(f"{path}: is no reference window: {error}", "Package the model again.") from error
    return Window(vectors, columns, len(vectors))


def bundle_known(path: Path) -> Known:
    """Returns all that `reference.npz` of a bundle holds; an older one has no training vectors and no concepts.

    Raises as `bundle_reference` does.
    """
    reference = bundle_reference(path)
    with np.load(path) as arrays:
        if not {"training", "concepts", "concept_vectors"} <= set(arrays.files):
            return Known(reference)
        names, vectors = arrays["concepts"].tolist(), arrays["concept_vectors"]
        return Known(reference, arrays["training"], (names, vectors) if names else None)


def of_own_bundle(path: Path) -> Callable[[str], Known]:
    """Returns what gives each version the reference of its own bundle, where this workspace's registry still has it,
    and `path` to any other: the newest bundle may be of a version that was refused.

    It raises as `bundle_reference` does, and `EmbedlineError` for a bundle that is damaged.
    """
    tracked = tracking.find(Path())
    registered = models.versions(tracked) if tracked else {}
    there = {version for version, tags in registered.items() if models.PRUNED not in tags}

    @cache
    def known(version: str) -> Known:
        if tracked is None or version not in there:
            return bundle_known(path)
        return bundle_known(models.fetched(tracked, version) / path.name)

    return known


def first_requests(traffic: Path, version: str, settings: Monitoring, kept: Path) -> Window | None:
    """Returns the first `monitoring.reference_requests` requests that a version answered, None while it has fewer.

    Once there are so many they lie in the folder `kept`, so that forgetting old traffic does not change them. Raises
    as `read_window` does.
    """
    path = kept / f"reference-{version or 'any'}.npz"
    wanted = settings.reference_requests or 0
    if not path.is_file():
        times = np.sort(read_column(traffic, "time", -np.inf, np.inf, version or None))
        if len(times) < wanted:
            return None
        until = float(np.nextafter(times[wanted - 1], np.inf))
        window = read_window(traffic, until=until, version=version or None, most=max(settings.most, wanted))
        with atomic_file(path) as partial, partial.open("wb") as file:
            columns: dict[str, Any] = {f"column {name}": each for name, each in window.columns.items()}
            np.savez(file, vectors=window.vectors, **columns)
    with np.load(path) as arrays:
        columns = {name.removeprefix("column "): arrays[name] for name in arrays.files if name != "vectors"}
        return Window(arrays["vectors"], columns, len(arrays["vectors"]))


def _column(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind == "U" else values.astype(np.float64)

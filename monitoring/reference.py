"""What windows are compared with: how the shipped model saw the held-out queries."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from components.errors import DataInvalid, UsageError
from components.traffic import Window

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


def _column(values: np.ndarray) -> np.ndarray:
    return values if values.dtype.kind == "U" else values.astype(np.float64)

"""Reference and window in two dimensions, so that a person sees what moved where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from components.embedder import Vectors
from components.traffic import Window

POINTS = 500
SIZE = 1000
Points = list[list[int]]


@dataclass(frozen=True)
class Projection:
    """Where requests lie on the two principal axes of both sides together, from -`SIZE` to `SIZE`: at most `POINTS` of
    each side, drawn at random, and all those that moved most. `explained` is the share of the variance, 0 to 1."""

    reference: Points
    window: Points
    moved: Points
    explained: float


def project(reference: Window, window: Window, moved: Sequence[str], seed: int) -> Projection | None:
    """Returns the projection of what has vectors, None where a side has none; `moved` are ids of the window."""
    sides = [side.vectors[np.isfinite(side.vectors).all(axis=1)] for side in (reference, window)]
    if not all(side.size for side in sides):
        return None
    both = np.concatenate(sides)
    centre = both.mean(axis=0)
    variances, axes = np.linalg.eigh(np.cov((both - centre).T).reshape(both.shape[1], -1))
    plane = axes[:, ::-1][:, :2]
    plane = plane * np.sign(plane[np.argmax(np.abs(plane), axis=0), range(plane.shape[1])])
    rows = {str(name): row for row, name in enumerate(window.columns.get("request_id", ()))}
    shown = [_drawn(side, seed) for side in sides] + [window.vectors[[rows[name] for name in moved]]]
    places = [_places((vectors - centre) @ plane) for vectors in shown]
    largest = max(float(np.abs(part).max(initial=0.0)) for part in places) or 1.0
    ours, theirs, most = (np.rint(part / largest * SIZE).astype(int).tolist() for part in places)
    total = float(variances.sum())
    return Projection(ours, theirs, most, float(variances[::-1][:2].sum()) / total if total > 0 else 0.0)


def _drawn(vectors: Vectors, seed: int) -> Vectors:
    return vectors[np.random.default_rng(seed).permutation(len(vectors))[:POINTS]]


def _places(on_axes: Vectors) -> Vectors:
    """Returns two coordinates a row, also of vectors with one number."""
    return np.pad(on_axes, ((0, 0), (0, 2 - on_axes.shape[1])))

"""Vectors cut to their first numbers, as a served model cuts them for a request that asks for so many.

Aditya Kusupati et al.: Matryoshka Representation Learning, 2022, https://arxiv.org/abs/2205.13147.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from components.errors import UsageError
from components.evaluation.scoring import normalised
from components.evaluation.vectors import Side, dimension


def shortened(sides: Mapping[str, tuple[Side, Side]], size: int) -> dict[str, tuple[Side, Side]]:
    """Returns the vectors `(u, size)` float32, L2-normalised, of each set's queries and candidates.

    Raises `UsageError` if they have fewer numbers, or if an item has several vectors.
    """
    full = dimension(sides)
    if not 0 < size <= full:
        raise UsageError(f"--dimension {size}: the model's vectors have {full} numbers", f"Name 1 to {full}.")
    if any(side.bounds is not None for both in sides.values() for side in both):
        raise UsageError("--dimension: the model gives an item several vectors", "Leave --dimension out.")
    return {name: (_cut(queries, size), _cut(candidates, size)) for name, (queries, candidates) in sides.items()}


def _cut(side: Side, size: int) -> Side:
    return replace(side, vectors=normalised(side.vectors[:, :size]))

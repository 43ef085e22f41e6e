"""Parity: does the exported model answer as the model that it was exported from?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.corpus import Item
from components.embedder import Embedder, Vectors
from components.errors import Refused

MOST_BATCH_DIFFERENCE = 1e-3
"""Sums in another order make 1e-7, and in int8 at most tip a number to its next step; a model that looks at an item's
neighbours makes far more. A unit vector of 384 numbers has numbers of about 0.05."""


EQUAL = 1e-6
"""Cosines that differ less are equal: sums in another order differ so much."""


@dataclass(frozen=True)
class Parity:
    """Cosines of the exported model's vectors to the reference's; `worst` describes the item with the lowest one.

    `percentile_1` is the cosine that 1 % of the items fall below; `rank_agreement_1` and `rank_agreement_10` are how
    much of the 1 and the 10 items nearest to each item is the same for both. `batch_difference` is the largest
    difference that an item's neighbours in a batch make to a number of its vector.
    """

    items: int
    minimum: float
    percentile_1: float
    mean: float
    rank_agreement_1: float
    rank_agreement_10: float
    worst: dict[str, str]
    batch_difference: float

    @property
    def numbers(self) -> dict[str, float]:
        return {name: value for name, value in asdict(self).items() if name != "worst"}


def parity(reference: Embedder, exported: Embedder, items: Sequence[Item]) -> Parity:
    """Returns how alike the two answer: all items at once, and each one alone, the worse of both."""
    expected, together, alone = reference.encode(items), exported.encode(items), one_by_one(exported, items)
    cosines = np.minimum(likeness(expected, together), likeness(expected, alone))
    worst = int(cosines.argmin())
    return Parity(
        items=len(items),
        minimum=float(cosines[worst]),
        percentile_1=float(np.percentile(cosines, 1)),
        mean=float(cosines.mean()),
        rank_agreement_1=rank_agreement(expected, together, 1),
        rank_agreement_10=rank_agreement(expected, together, 10),
        worst=describe(items[worst]),
        batch_difference=float(np.abs(together - alone).max()),
    )


def demand(found: Parity, variant: str, least: float) -> None:
    """Raises `Refused` if a cosine is below `least`, or if a vector depends on its neighbours in a batch."""
    if not found.minimum >= least:  # a NaN is refused as well
        raise Refused(
            f"the {variant} graphs answer otherwise than the model: cosine {found.minimum:.5f} < {least} "
            f"for {found.worst} (mean {found.mean:.5f} of {found.items} items)",
            f"Look at parity_cosine of {variant} in params.yaml; a wrong export is far below, rounding just below.",
        )
    if not found.batch_difference <= MOST_BATCH_DIFFERENCE:
        raise Refused(
            f"the {variant} graphs answer otherwise in a batch than alone: a number of a vector differs by "
            f"{found.batch_difference:.5f} > {MOST_BATCH_DIFFERENCE}",
            "Look for what the graphs compute over a whole batch, such as a scale or a mean.",
        )


def rank_agreement(expected: Vectors, found: Vectors, depth: int) -> float:
    """Returns how much of the `depth` rows nearest to each row is the same in both, the row itself left out: 0 to 1.

    Rows of equal cosine may stand in either order: one that is as near in `expected` as the last of its nearest counts.
    """
    depth = min(depth, len(expected) - 1)
    if depth < 1:
        return 1.0
    cosines, nearest = expected @ expected.T, found @ found.T
    for own in (cosines, nearest):
        np.fill_diagonal(own, -np.inf)
    last = -np.sort(-cosines, axis=1)[:, depth - 1 : depth]
    chosen = np.argsort(-nearest, axis=1, kind="stable")[:, :depth]
    return float((np.take_along_axis(cosines, chosen, axis=1) >= last - EQUAL).mean())


def one_by_one(embedder: Embedder, items: Sequence[Item]) -> Vectors:
    """Returns `(n, dimension)`: each item encoded without neighbours."""
    return np.concatenate([embedder.encode([item]) for item in items])


def likeness(expected: Vectors, found: Vectors) -> NDArray[np.float64]:
    """Returns `(n,)`: the cosine of unit vectors, computed so that two zero vectors are alike, and one alone is not."""
    cosines: NDArray[np.float64] = 1 - ((expected.astype(np.float64) - found) ** 2).sum(1) / 2
    return cosines


def describe(item: Item) -> dict[str, str]:
    """Returns the parts that an item has; of an image, the name of its file."""
    image = item.image.name if isinstance(item.image, Path) else item.image and "an image without a file"
    parts = {"text": item.text, "image": image, "instruction": item.instruction}
    return {name: part for name, part in parts.items() if part}

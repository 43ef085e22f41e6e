"""Two samples, pooled, and many ways to part them again: what every drift test of a window is calibrated by.

A test gives its statistic for all ways at once, the first of which is what happened. Under the hypothesis that nothing
changed, all ways are alike, so `(1 + how many others are as large) / (1 + others)` is a p-value at any sample size, for
any statistic (B. Phipson and G. Smyth 2010, Permutation P-values Should Never Be Zero). Since all tests see the same
ways, their largest standardised statistic has an exact p-value too (P. Westfall and S. Young 1993, step-down maxT).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.embedder import Vectors
from components.traffic import Window

TIE = 1e-9
"""What sums in another order may differ by: so much less still counts as equal, which is the safe side."""
Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Inapplicable(Exception):
    """These samples lack what a test looks at; the message says what."""


@dataclass(frozen=True)
class Measured:
    """A test's statistic by way, `(1 + permutations,)`, larger for what differs more; the first is what happened.

    `effect` is the size of the difference in `unit`, and `detail` what else a reader wants to know.
    """

    values: Numbers
    effect: float
    unit: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Samples:
    """Reference and window, pooled: `vectors (n, dimension)`, `columns` as in `Window`, those that both have.

    `ways (1 + permutations, n)` says which rows are of the window; the first way is what happened. Rows of one of
    `groups (n,)` are always moved together. `chance (n,)` is a random number a group, drawn apart from the ways: what
    a test draws it draws by that, so that no way is more like its draw than another. `training (m, dimension)` are
    vectors that the model was trained on.
    """

    vectors: Vectors
    columns: Mapping[str, NDArray[Any]]
    ways: Flags
    groups: NDArray[np.int64]
    chance: Numbers
    training: Vectors | None = None

    def where(self, rows: NDArray[Any]) -> Samples:
        """Returns the samples of some rows, parted in the same ways. Raises `Inapplicable` if a way leaves a side
        with fewer than two."""
        ways = self.ways[:, rows]
        found = ways.sum(axis=1)
        if not ways.shape[1] or min(found.min(), (ways.shape[1] - found).min()) < 2:
            raise Inapplicable("too few requests have what it looks at")
        columns = {name: values[rows] for name, values in self.columns.items()}
        return replace(
            self,
            vectors=self.vectors[rows],
            columns=columns,
            ways=ways,
            groups=self.groups[rows],
            chance=self.chance[rows],
        )

    def drawn(self, count: int) -> NDArray[np.int64]:
        """Returns the positions of `count` rows drawn at random, all of them if there are fewer."""
        return np.argsort(self.chance, kind="stable")[:count]

    def embedded(self) -> Samples:
        """Returns the samples of the rows that have a vector."""
        if not self.vectors.shape[1]:
            raise Inapplicable("there are no vectors")
        there = np.asarray(np.isfinite(self.vectors).all(axis=1))
        return self if there.all() else self.where(there)

    def known(self, column: str) -> tuple[Numbers, Samples]:
        """Returns the numbers of a column that are known, and the samples of their rows. Raises `Inapplicable`."""
        if column not in self.columns:
            raise Inapplicable(f"{column} is not recorded on both sides")
        there = np.isfinite(self.columns[column])
        samples = self if there.all() else self.where(there)
        return samples.columns[column], samples

    def means(self, rows: NDArray[Any]) -> tuple[Numbers, Numbers]:
        """Returns the means of `rows (n, k)` over the window's and over the reference's, `(1 + permutations, k)`."""
        of_window = self.ways.astype(rows.dtype) @ rows
        of_reference = rows.sum(axis=0, dtype=np.float64) - of_window
        return of_window / self.sizes[:, None], of_reference / self.others[:, None]

    @cached_property
    def vector_means(self) -> tuple[Numbers, Numbers]:
        """The means of the vectors, as `means` gives them, computed once for all tests."""
        return self.means(self.vectors)

    @property
    def sizes(self) -> Numbers:
        """The sizes of the window, `(1 + permutations,)`."""
        return np.asarray(self.ways.sum(axis=1), np.float64)

    @property
    def others(self) -> Numbers:
        """The sizes of the reference, `(1 + permutations,)`."""
        return np.asarray(self.ways.shape[1] - self.sizes, np.float64)


def pooled(
    reference: Window,
    window: Window,
    permutations: int,
    seed: int | Sequence[int],
    block: int = 1,
    training: Vectors | None = None,
) -> Samples:
    """Returns both, and what happened with so many permutations: groups of `block` rows that follow each other change
    sides together."""
    names = reference.columns.keys() & window.columns.keys()
    blocks = [np.arange(len(side)) // block for side in (reference, window)]
    first = int(blocks[0].max(initial=-1)) + 1
    groups = np.concatenate([blocks[0], blocks[1] + first])
    which = np.arange(int(groups.max(initial=-1)) + 1) >= first
    shuffles, chances = np.random.default_rng(seed).spawn(2)
    shuffled = shuffles.permuted(np.tile(which, (permutations, 1)), axis=1)
    return Samples(
        np.concatenate([reference.vectors, window.vectors]),
        {name: np.concatenate([reference.columns[name], window.columns[name]]) for name in sorted(names)},
        np.concatenate([which[None], shuffled])[:, groups],
        groups,
        chances.random(len(which))[groups],
        training,
    )


def p_value(values: Numbers) -> float:
    """Returns the share of ways whose statistic is at least that of the first one, itself included: never 0."""
    return float((values >= values[0] - TIE * abs(values[0])).mean())


def standardised(values: Numbers) -> Numbers:
    """Returns the statistic in standard deviations over all ways, which treats the first one as any other."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)


def largest(parts: Mapping[str, Numbers]) -> tuple[Numbers, str]:
    """Returns the largest of several standardised statistics by way, and which one it was in what happened."""
    names = list(parts)
    table = np.stack([standardised(parts[name]) for name in names])
    return table.max(axis=0), names[int(table[:, 0].argmax())]


def step_down(tests: Sequence[Numbers]) -> list[float]:
    """Returns the p-value of each test, adjusted for there being several: no true null is rejected at a level more
    often than that, whatever their dependence (step-down maxT)."""
    table = np.stack([standardised(values) for values in tests])
    order = np.argsort(-table[:, 0])
    adjusted, so_far = np.ones(len(tests)), 0.0
    for position, test in enumerate(order):
        so_far = max(so_far, float((table[order[position:]].max(axis=0) >= table[test, 0] - TIE).mean()))
        adjusted[test] = so_far
    return [float(p) for p in adjusted]


def distribution_shift(samples: Samples, column: str) -> Measured:
    """Returns how far the distributions of a column lie apart: the effect is their largest distance, 0 to 1; the
    medians are in the detail. Raises `Inapplicable` where the column is not known."""
    values, samples = samples.known(column)
    distances = kolmogorov_smirnov(values, samples)
    medians = {
        "window": float(np.median(values[samples.ways[0]])),
        "reference": float(np.median(values[~samples.ways[0]])),
    }
    return Measured(distances, float(distances[0]), "distance of distributions", medians)


def kolmogorov_smirnov(values: Numbers, samples: Samples) -> Numbers:
    """Returns the largest distance between the two distribution functions of `values (n,)`, by way."""
    order = np.argsort(values, kind="stable")
    in_order = values[order]
    last = np.append(np.flatnonzero(in_order[1:] != in_order[:-1]), len(values) - 1)
    of_window = np.cumsum(samples.ways[:, order], axis=1, dtype=np.int32)[:, last]
    sizes = samples.sizes[:, None]
    found: Numbers = np.abs(of_window / sizes - (last + 1 - of_window) / (len(values) - sizes)).max(axis=1)
    return found

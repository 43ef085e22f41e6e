"""The maximum mean discrepancy with a Gaussian kernel, whose width is the median distance of pairs.

Source: A. Gretton et al. 2012, A Kernel Two-Sample Test (the unbiased estimate of the squared discrepancy, and the
witness function, which says where one sample is denser than the other). The kernel of all pairs is computed once; each
way to part them is then one row of a matrix product.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from components.embedder import Vectors
from components.sections import Positive, Section
from monitoring.permutations import Measured, Numbers, Samples

MEDIAN_OF = 1000


class Settings(Section):
    """`most` rows of both samples together are compared, drawn without a look at which side they are of."""

    name: Literal["mmd"] = "mmd"
    most: Positive = Field(default=5000, ge=4)


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the squared discrepancy, 0 to 2."""
    samples = samples.embedded()
    if len(samples.vectors) > settings.most:
        samples = samples.where(np.sort(samples.drawn(settings.most)))
    squared = squared_distances(samples.vectors, samples.vectors)
    values = discrepancies(gaussian(squared, samples.drawn(MEDIAN_OF)), samples)
    return Measured(values, float(values[0]), "squared discrepancy", {})


def discrepancies(kernel: Vectors, samples: Samples) -> Numbers:
    """Returns the unbiased estimates, by way, from the kernel of all pairs `(n, n)`, 1 for each row with itself."""
    ways, sizes = samples.ways.astype(np.float32), samples.sizes
    others = len(kernel) - sizes
    of_rows = kernel.sum(axis=0, dtype=np.float64)
    within = np.einsum("bn,bn->b", ways @ kernel, ways, dtype=np.float64)
    touched = ways @ of_rows
    across, beyond = touched - within, of_rows.sum() - 2 * touched + within
    found: Numbers = (
        (within - sizes) / (sizes * (sizes - 1))
        + (beyond - others) / (others * (others - 1))
        - 2 * across / (sizes * others)
    )
    return found


def gaussian(squared: Vectors, some: NDArray[np.int64]) -> Vectors:
    """Returns `exp(-d² / 2m²)` of squared distances `(n, n)`, written over them; `m` is the median of `some` rows."""
    squared *= -0.5 / _median(squared[np.ix_(some, some)])
    return np.exp(squared, out=squared)


def witness(vectors: Vectors, window: Vectors, reference: Vectors) -> Vectors:
    """Returns by how much the window is denser than the reference at each of `vectors (n, dimension)`."""
    everything = np.concatenate([window, reference])
    some = everything[np.random.default_rng(0).permutation(len(everything))[:MEDIAN_OF]]
    width = _median(squared_distances(some, some))
    near = [np.exp(squared_distances(vectors, side) * (-0.5 / width)).mean(axis=1) for side in (window, reference)]
    found: Vectors = near[0] - near[1]
    return found


def _median(squared: Vectors) -> float:
    return float(np.median(squared[np.triu_indices(len(squared), 1)])) or 1.0


def squared_distances(one: Vectors, other: Vectors) -> Vectors:
    """Returns the squared distances of all pairs of rows, `(n, m)`."""
    found: Vectors = one @ other.T
    found *= -2
    found += np.einsum("ij,ij->i", one, one)[:, None]
    found += np.einsum("ij,ij->i", other, other)
    return np.maximum(found, 0, out=found)

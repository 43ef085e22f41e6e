"""The maximum mean discrepancy with a Gaussian kernel, whose width is the median distance of pairs.

Source: A. Gretton et al. 2012, A Kernel Two-Sample Test (the unbiased estimate of the squared discrepancy, and the
witness function, which says where one sample is denser than the other). The kernel of all pairs is computed once; each
way to part them is then one row of a matrix product.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
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
        drawn = np.random.default_rng(0).permutation(len(samples.vectors))[: settings.most]
        samples = samples.where(np.sort(drawn))
    values = discrepancies(gaussian_kernel(samples.vectors), samples)
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


def gaussian_kernel(vectors: Vectors) -> Vectors:
    """Returns `exp(-d² / 2m²)` of all pairs `(n, n)` float32: `d` is their distance, `m` the median one."""
    squared = squared_distances(vectors, vectors)
    some = np.random.default_rng(0).permutation(len(vectors))[:MEDIAN_OF]
    median = float(np.median(squared[np.ix_(some, some)][np.triu_indices(len(some), 1)]))
    squared *= -0.5 / (median or 1.0)
    return np.exp(squared, out=squared)


def witness(vectors: Vectors, window: Vectors, reference: Vectors) -> Vectors:
    """Returns by how much the window is denser than the reference at each of `vectors (n, dimension)`."""
    everything = np.concatenate([window, reference])
    some = np.random.default_rng(0).permutation(len(everything))[:MEDIAN_OF]
    among = squared_distances(everything[some], everything[some])
    width = float(np.median(among[np.triu_indices(len(some), 1)])) or 1.0
    near = [np.exp(squared_distances(vectors, side) * (-0.5 / width)).mean(axis=1) for side in (window, reference)]
    found: Vectors = near[0] - near[1]
    return found


def squared_distances(one: Vectors, other: Vectors) -> Vectors:
    """Returns the squared distances of all pairs of rows, `(n, m)`."""
    found: Vectors = one @ other.T
    found *= -2
    found += np.einsum("ij,ij->i", one, one)[:, None]
    found += np.einsum("ij,ij->i", other, other)
    return np.maximum(found, 0, out=found)

"""The Fréchet distance of two Gaussians fitted to the first principal components.

Source: M. Heusel et al. 2017, GANs Trained by a Two Time-Scale Update Rule (the distance, there of image features);
D. Dowson and B. Landau 1982 (its closed form). The components are those of both samples together.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.linalg import eigh

from components.embedder import Vectors
from components.sections import Positive, Section
from monitoring.permutations import Measured, Numbers, Samples


class Settings(Section):
    name: Literal["frechet"] = "frechet"
    components: Positive = 16


def measure(settings: Settings, samples: Samples) -> Measured:
    """The effect is the share of the variance in these components that the squared distance is."""
    samples = samples.embedded()
    rows = principal_components(samples.vectors, settings.components)
    upper = np.triu_indices(rows.shape[1])
    products = rows[:, upper[0]] * rows[:, upper[1]]
    sides = zip(samples.means(rows), samples.means(products), strict=True)
    moments = [(mean, _covariances(mean, of_products, upper)) for mean, of_products in sides]
    distances = frechet_distance(*moments[0], *moments[1])
    variance = float(rows.var(axis=0).sum()) or 1.0
    return Measured(distances, float(distances[0]) / variance, "of the variance", {})


def frechet_distance(mean: Numbers, covariance: Numbers, other_mean: Numbers, other_covariance: Numbers) -> Numbers:
    """Returns the squared distances of Gaussians: means `(..., k)`, covariances `(..., k, k)`."""
    values, directions = np.linalg.eigh(covariance)
    root = (directions * np.sqrt(values.clip(0))[..., None, :]) @ np.swapaxes(directions, -1, -2)
    cross = np.sqrt(np.linalg.eigvalsh(root @ other_covariance @ root).clip(0)).sum(axis=-1)
    traces = np.trace(covariance, axis1=-2, axis2=-1) + np.trace(other_covariance, axis1=-2, axis2=-1)
    found: Numbers = ((mean - other_mean) ** 2).sum(axis=-1) + traces - 2 * cross
    return found


def principal_components(vectors: Vectors, components: int) -> Numbers:
    """Returns the rows' coordinates along the first principal components, centred, `(n, components)` float64."""
    centred = vectors - vectors.mean(axis=0)
    dimension = centred.shape[1]
    last = [max(0, dimension - components), dimension - 1]
    _, directions = eigh(centred.T @ centred, subset_by_index=last)
    return np.asarray(centred @ directions[:, ::-1], np.float64)


def _covariances(mean: Numbers, products: Numbers, upper: tuple[np.ndarray, ...]) -> Numbers:
    size = mean.shape[-1]
    full = np.empty((len(mean), size, size))
    full[:, upper[0], upper[1]] = full[:, upper[1], upper[0]] = products
    return full - mean[:, :, None] * mean[:, None, :]

"""The geometry of a model's vectors: alignment and uniformity, and how far they crowd into one direction.

No set is made for it: it looks at the vectors of the sets that are there, at a sample of fixed seed. All vectors have
norm 1. Where items of several modalities are there, each is measured apart too.

Sources: T. Wang and P. Isola 2020, Understanding Contrastive Representation Learning through Alignment and Uniformity
on the Hypersphere (with their exponents 2 and 2); K. Ethayarajh 2019, How Contextual are Contextualized Word
Representations? (anisotropy as the mean cosine of random pairs, and the share of the first principal direction).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from components.corpus import Item
from components.embedder import Vectors
from components.errors import EmbedlineError
from components.evaluation.derived import require_one_vector
from components.evaluation.scoring import Positions
from components.evaluation.sets import EvaluationSet, Suite
from components.evaluation.vectors import Side
from components.scores import Scores

NAME = "geometry"
ITEMS = 2048
PAIRS = 16_384
ROWS_AT_ONCE = 256


def build(base: Suite, images: Path) -> Suite:
    """Returns the suite itself: the vectors that are measured are those of its own items."""
    return base


def measure(suite: Suite, scores: Scores, sides: Mapping[str, tuple[Side, Side]]) -> dict[str, float]:
    """Returns these numbers of all items, and of those of each modality that has at least two.

    `alignment`: the mean squared distance of a query and what is relevant to it, 0 to 4, lower is better; by the
    modalities of both. `uniformity`: the logarithm of the mean of exp(-2 d²) over pairs at distance d, lower is better;
    0 where all vectors are the same. `mean cosine` of random pairs, and `first direction`: the share of the variance
    that lies along one direction.

    Raises `EmbedlineError` if all vectors of a modality are the same, `UsageError` if the model gives an item several.
    """
    require_one_vector(NAME, sides.values())
    modality = np.array([_modality(item) for item in suite.items])
    numbers = _alignments(suite, sides, modality)
    generator = np.random.default_rng(0)
    for name in ("all", *np.unique(modality)):
        members = np.flatnonzero((modality == name) | (name == "all"))
        if len(members) < 2:
            continue
        vectors = _vectors(sides, np.sort(generator.permutation(members)[:ITEMS]))
        numbers[f"uniformity, {name}"] = uniformity(vectors)
        numbers[f"mean cosine, {name}"] = mean_cosine(vectors)
        numbers[f"first direction, {name}"] = first_direction(vectors, f"{scores.model.name}: {name} items")
    return numbers


def uniformity(vectors: Vectors) -> float:
    """Returns the logarithm of the mean of exp(-2 d²) over pairs of different rows at distance d."""
    count = len(vectors)
    total = sum(
        float(np.exp(4 * (vectors[start : start + ROWS_AT_ONCE] @ vectors.T).astype(np.float64) - 4).sum())
        for start in range(0, count, ROWS_AT_ONCE)
    )
    themselves = np.exp(4 * np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64) - 4).sum()
    return float(np.log((total - themselves) / (count * (count - 1))))


def mean_cosine(vectors: Vectors) -> float:
    """Returns the mean cosine of pairs of different rows."""
    total, count = vectors.sum(axis=0, dtype=np.float64), len(vectors)
    return float((total @ total - count) / (count * (count - 1)))


def first_direction(vectors: Vectors, name: str) -> float:
    """Returns the share of the variance along the first principal direction.

    Raises `EmbedlineError` that names the vectors if they do not vary.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances = np.linalg.svd(centred, compute_uv=False) ** 2
    if variances.sum() < len(vectors) * np.finfo(np.float32).eps ** 2:
        raise EmbedlineError(f"{name}: all vectors are the same", "No geometry is given. Look at the model's weights.")
    return float(variances[0] / variances.sum())


def _alignments(suite: Suite, sides: Mapping[str, tuple[Side, Side]], modality: NDArray[np.str_]) -> dict[str, float]:
    """Returns the mean squared distances of a sample of relevant pairs: of all, and by their two modalities."""
    pairs = [(questions.name, _relevant(questions)) for questions in suite.sets]
    owner = np.repeat(np.arange(len(pairs)), [len(found) for _, found in pairs])
    drawn = np.random.default_rng(0).permutation(len(owner))[:PAIRS]
    distances, kinds = [], []
    first = 0
    for name, found in pairs:
        its = np.sort(drawn[(drawn >= first) & (drawn < first + len(found))]) - first
        first += len(found)
        asked, answers = found[its].T
        queries, candidates = sides[name]
        apart = queries.vectors[queries.rows(asked)] - candidates.vectors[candidates.rows(answers)]
        distances.append(np.einsum("ij,ij->i", apart, apart, dtype=np.float64))
        kinds += [f"{modality[query]} to {modality[answer]}" for query, answer in zip(asked, answers, strict=True)]
    every, kind = np.concatenate(distances), np.array(kinds)
    by_kind = {f"alignment, {name}": float(every[kind == name].mean()) for name in sorted(set(kinds))}
    return {"alignment, all": float(every.mean())} | by_kind


def _relevant(questions: EvaluationSet) -> Positions:
    """Returns the positions of each query and of what is relevant to it, `(pairs, 2)`."""
    return np.concatenate(
        [
            np.stack([questions.queries[pool.rows[pool.relevant[:, 0]]], pool.candidates[pool.relevant[:, 1]]], axis=1)
            for pool in questions.pools
        ]
    )


def _vectors(sides: Mapping[str, tuple[Side, Side]], positions: Positions) -> Vectors:
    """Returns the vectors of the items at `positions`, `(n, dimension)`, each from a side that has it."""
    dimension = next(iter(sides.values()))[0].vectors.shape[1]
    found = np.empty((len(positions), dimension), np.float32)
    for side in (side for both in sides.values() for side in both):
        there = np.isin(positions, side.positions)
        if there.any():
            found[there] = side.vectors[side.rows(positions[there])]
    return found


def _modality(item: Item) -> str:
    parts = {"text": item.text, "image": item.image, "video": item.video}
    return " and ".join(name for name, part in parts.items() if part)

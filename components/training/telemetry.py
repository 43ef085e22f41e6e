"""How the vectors of a training lie in their space, and how much memory the training takes."""

from __future__ import annotations

import resource
import sys

import torch
from torch import Tensor

from components.errors import UsageError

GIB = 2**30
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def measure(queries: Tensor, positives: Tensor) -> dict[str, float]:
    """Returns alignment, uniformity and modality gap of pairs of vectors, `(n, dim)` each, L2-normalised.

    Alignment, the mean squared distance within a pair, and uniformity, the logarithm of the mean of
    `exp(-2 distance²)` over all pairs of different rows, here the mean of both sides', are those of Wang and Isola,
    Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere (2020); the
    lower, the better. The modality gap is the distance between the means of the two sides (Liang et al., Mind the
    Gap, 2022). Raises `UsageError` if there are fewer than two pairs.
    """
    if len(queries) < 2:
        raise UsageError("uniformity compares different rows, and there is but one pair", "Measure at least two.")
    queries, positives = queries.detach().float(), positives.detach().float()
    sides = [torch.pdist(side).square().mul(-2).exp().mean().log() for side in (queries, positives)]
    return {
        "alignment": (queries - positives).square().sum(1).mean().item(),
        "uniformity": torch.stack(sides).mean().item(),
        "modality_gap": (queries.mean(0) - positives.mean(0)).norm().item(),
    }


def memory() -> float:
    """Returns the most memory, in GiB, held so far: on the accelerator if there is one, else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / GIB

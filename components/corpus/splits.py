"""Which split a thing belongs to: decided by a hash of the seed and what the thing is, whatever else is in the data."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "dev", "eval"]


def priority(seed: int, key: object) -> int:
    """Returns a whole number below 2**64, spread evenly over the keys; the smallest are held out."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8], "big")


def split_of(priority: int, dev_fraction: float, eval_fraction: float) -> Split:
    """Returns the split of what has this priority."""
    position = priority / 2**64
    if position < eval_fraction:
        return "eval"
    return "dev" if position < eval_fraction + dev_fraction else "train"

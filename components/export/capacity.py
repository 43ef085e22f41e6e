"""How many processes a model is served by, and with how many threads each: given, or measured on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from components.corpus import Item
from components.embedder import OnnxEmbedder
from components.export.config import Serving

SECONDS = 0.5
ROUNDS = 3


@dataclass(frozen=True)
class Capacity:
    """`items_per_second` is 0 where nothing was measured."""

    threads: int
    instances: int
    items_per_second: float = 0


def choose_capacity(config: Serving, version: Path, items: Sequence[Item]) -> tuple[Capacity, list[Capacity]]:
    """Returns what the version folder is to be served with, and what was measured for that: nothing where both numbers
    are given.

    Each measurement takes `SECONDS`, and the best of `ROUNDS` counts, by turns, so that a busy moment decides nothing.
    """
    options = candidates(config, os.cpu_count() or 1)
    if len(options) == 1:
        return options[0], []
    best = {option: 0.0 for option in options}
    for _ in range(ROUNDS):
        for option in options:
            best[option] = max(best[option], throughput(option, config.provider, version, items))
    tried = [replace(option, items_per_second=round(measured, 1)) for option, measured in best.items()]
    return max(tried, key=lambda one: one.items_per_second), tried


def candidates(config: Serving, processors: int) -> list[Capacity]:
    """Returns the ways to use all processors: few processes with many threads first."""
    if config.threads and config.instances:
        return [Capacity(config.threads, config.instances)]
    if config.instances:
        return [Capacity(max(1, processors // config.instances), config.instances)]
    if config.threads:
        return [Capacity(config.threads, max(1, processors // config.threads))]
    counts = [2**power for power in range(processors.bit_length()) if 2**power <= processors]
    return [Capacity(processors // instances, instances) for instances in counts]


def throughput(option: Capacity, provider: str, version: Path, items: Sequence[Item]) -> float:
    """Returns the items per second of so many embedders at once, whose work is outside of Python's lock."""
    embedders = [OnnxEmbedder(version, threads=option.threads, provider=provider) for _ in range(option.instances)]
    for embedder in embedders:
        embedder.encode(items)
    end = time.perf_counter() + SECONDS

    def encode_until_end(embedder: OnnxEmbedder) -> float:
        began, rounds = time.perf_counter(), 0
        while time.perf_counter() < end or not rounds:
            embedder.encode(items)
            rounds += 1
        return rounds * len(items) / (time.perf_counter() - began)

    with ThreadPoolExecutor(option.instances) as pool:
        return sum(pool.map(encode_until_end, embedders))

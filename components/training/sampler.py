"""Which pairs make a step: a few tasks, drawn by weight, each with a sub-batch of its own.

A sub-batch of a single task makes the negatives hard (Meng et al., VLM2Vec-V2, 2025). The draw depends on the seed
and the number of the step alone, so that a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from components.errors import UsedWrongly


def draw(
    rows: Mapping[str, int], weights: Mapping[str, float], batch_size: int, sub_batches: int, seed: int, step: int
) -> dict[str, list[int]]:
    """Returns the row numbers of each drawn task, at most `batch_size` rows in all, no row twice."""
    random = Random(f"{seed}:{step}")
    tasks = [task for task in rows if weights.get(task, 1.0) > 0]
    if not tasks:
        raise UsedWrongly("schedule.task_weights: no task of the data set has a weight above 0", "Give one a weight.")
    chosen = random.choices(tasks, [weights.get(task, 1.0) for task in tasks], k=sub_batches)
    sizes = {task: chosen.count(task) * (batch_size // sub_batches) for task in dict.fromkeys(chosen)}
    return {task: random.sample(range(rows[task]), min(size, rows[task])) for task, size in sizes.items()}

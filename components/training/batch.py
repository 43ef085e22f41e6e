"""The rows of one step: what the sampler draws, and what else the training set says about the drawn images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.training.config import Planned
from components.training.examples import IMAGE, NONE, TEXT, Examples
from components.training.negatives import HardNegatives
from components.training.sampler import Sampler


@dataclass(frozen=True)
class Span:
    """The rows of one task within a batch, and the task's fraction of the loss."""

    rows: slice
    fraction: float


@dataclass(frozen=True)
class Batch:
    """Positions of the parts, `(n, 3)` each and `(n, k, 3)` of the hard negatives, task after task.

    `scores (n, 1 + k)` are a reranker's, of the positives and the hard negatives.
    """

    queries: Tensor
    positives: Tensor
    negatives: Tensor | None
    tasks: Sequence[Span]
    scores: Tensor | None = None

    @property
    def items(self) -> Tensor:
        """Returns `(m, 3)`: queries, positives and negatives one below the other."""
        parts = [self.queries, self.positives]
        return torch.cat(parts if self.negatives is None else [*parts, self.negatives.flatten(0, 1)])

    def split(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns what belongs to the queries, the positives and the negatives of `items`, in the order of `items`."""
        count = len(self.queries)
        negatives = None if self.negatives is None else items[2 * count :].unflatten(0, self.negatives.shape[:2])
        return items[:count], items[count : 2 * count], negatives

    def equal(self, rows: slice) -> Tensor:
        """Returns `(rows, rows)` bool: rows of a task that share their query or their positive."""
        return equal_rows(self.queries[rows]) | equal_rows(self.positives[rows])


class BatchBuilder:
    """Draws the batch of a step; it depends on the seed and the step alone.

    An image is what costs time; its names, keywords and labels come from a table. Therefore, with
    `schedule.companions`, every pair that joins a bare text with an image that was drawn anyway joins the batch. Most
    tasks are then in most batches, drawn or not, and `task_weights` act twice: they say which images are drawn, and how
    much each task that is present counts. Without companions they act once: a drawn task counts as often as it was
    drawn, so that a task's expected part of the loss is its weight's part of all weights.
    """

    def __init__(
        self, examples: Examples, schedule: Planned, negatives: Mapping[str, HardNegatives] | None = None
    ) -> None:
        self.examples = examples
        self.schedule = schedule
        self.negatives = {task: own.positions for task, own in (negatives or {}).items()}
        self.scores = {task: own.scores for task, own in (negatives or {}).items() if own.scores is not None}
        self.sampler = Sampler(examples, schedule)
        self.images = {
            task: _image_beside_text(examples, task) for task in examples.tasks if schedule.task_weights.get(task, 1)
        }

    def __call__(self, step: int) -> Batch:
        drawn = {task: np.array(rows, np.int64) for task, rows in self.sampler(step).items()}
        chosen = self._with_companions(drawn) if self.schedule.companions else drawn
        ends = np.cumsum([len(rows) for rows in chosen.values()]).tolist()
        draws = self.sampler.draws(step)
        weights = [
            self.schedule.task_weights.get(task, 1.0) if self.schedule.companions else draws[task] for task in chosen
        ]
        return Batch(
            queries=_rows(self.examples.queries, chosen).long(),
            positives=_rows(self.examples.positives, chosen).long(),
            negatives=_rows(self.negatives, chosen).long() if self.negatives else None,
            tasks=[
                Span(slice(start, end), weight / sum(weights))
                for start, end, weight in zip([0, *ends], ends, weights, strict=False)
            ],
            scores=_rows(self.scores, chosen) if self.scores else None,
        )

    def _with_companions(self, drawn: Mapping[str, NDArray[np.int64]]) -> dict[str, NDArray[np.int64]]:
        images = np.concatenate(
            [
                side[task][rows][:, IMAGE]
                for task, rows in drawn.items()
                for side in (self.examples.queries, self.examples.positives)
            ]
        )
        chosen = {}
        for task, beside in self.images.items():
            about = np.flatnonzero(np.isin(beside, images) & (beside != NONE))
            rows = np.union1d(about, drawn.get(task, np.empty(0, np.int64)))
            if len(rows) > 1:
                chosen[task] = rows
        return chosen or dict(drawn)


def equal_rows(positions: Tensor) -> Tensor:
    """Returns `(n, n)` bool: which rows of `positions (n, parts)` are the same."""
    return (positions[:, None, :] == positions[None, :, :]).all(-1)


def _rows(side: Mapping[str, NDArray[Any]], chosen: Mapping[str, NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate([side[task][rows] for task, rows in chosen.items()]))


def _image_beside_text(examples: Examples, task: str) -> NDArray[np.int32]:
    """Returns `(rows,)` the image of each row that joins a bare text and a bare image, else -1."""
    found = np.full(examples.rows(task), NONE, np.int32)
    for one, other in permutations((examples.queries[task], examples.positives[task])):
        bare = (one[:, IMAGE] == NONE) & (other[:, IMAGE] != NONE) & (other[:, TEXT] == NONE)
        found[bare] = other[bare, IMAGE]
    return found

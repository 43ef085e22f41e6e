"""From rows of the training set to vectors with gradients, each different part of a batch computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from components.config import Schedule
from components.embedder.dual_encoder import IMAGE_MEAN, IMAGE_STD, DualEncoder, autocast
from components.embedder.runtime import Description
from components.training.augmentation import augment
from components.training.examples import IMAGE, INSTRUCTION, NONE, TEXT, Examples
from components.training.sampler import draw

SHAPE = 64  # pictures are computed in multiples of this: oneDNN compiles, and keeps, a kernel for every new shape
EmbedParts = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Span:
    """The rows of one task within a batch, and the task's share of the loss."""

    rows: slice
    share: float


@dataclass(frozen=True)
class Batch:
    """The rows of one step: positions of the parts of queries and positives, `(n, 3)` each, task after task."""

    queries: Tensor
    positives: Tensor
    tasks: Sequence[Span]
    unmirrored_images: Tensor

    def equal(self, rows: slice) -> Tensor:
        """Returns `(rows, rows)` bool: rows of a task that share their query or their positive."""
        return equal_rows(self.queries[rows]) | equal_rows(self.positives[rows])


class Drawer:
    """Draws the batch of a step: rows of a few tasks, and what else the training set says about their pictures.

    A picture is what costs time; its names, keywords and labels come from a table. Therefore every pair that joins a
    bare text with a picture that was drawn anyway joins the batch.
    """

    def __init__(self, examples: Examples, schedule: Schedule) -> None:
        self.examples = examples
        self.schedule = schedule
        self.rows = {task: examples.rows(task) for task in examples.tasks}
        self.pictures = {task: _picture_beside_text(examples, task) for task in examples.tasks}

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step; it depends on the seed and the step alone."""
        schedule = self.schedule
        drawn = draw(self.rows, schedule.task_weights, schedule.batch_size, schedule.sub_batches, schedule.seed, step)
        images = np.concatenate(
            [
                side[task][numbers][:, IMAGE]
                for task, numbers in drawn.items()
                for side in (self.examples.queries, self.examples.positives)
            ]
        )
        chosen: dict[str, NDArray[np.int64]] = {}
        for task, pictures in self.pictures.items():
            if schedule.task_weights.get(task, 1.0):
                about = np.flatnonzero(np.isin(pictures, images) & (pictures != NONE))
                numbers = np.union1d(about, np.array(drawn.get(task, []), np.int64))
                if len(numbers) > 1:
                    chosen[task] = numbers
        ends = np.cumsum([len(numbers) for numbers in chosen.values()]).tolist()
        queries, positives = (
            torch.from_numpy(np.concatenate([side[task][numbers] for task, numbers in chosen.items()])).long()
            for side in (self.examples.queries, self.examples.positives)
        )
        fixed = [
            np.concatenate(
                [side[task][chosen[task]][:, IMAGE] for side in (self.examples.queries, self.examples.positives)]
            )
            for task in schedule.unmirrored_tasks
            if task in chosen
        ]
        weights = [schedule.task_weights.get(task, 1.0) for task in chosen]
        return Batch(
            queries=queries,
            positives=positives,
            tasks=[
                Span(slice(start, end), weight / sum(weights))
                for start, end, weight in zip([0, *ends], ends, weights, strict=False)
            ],
            unmirrored_images=torch.from_numpy(np.concatenate(fixed)).long()
            if fixed
            else torch.empty(0, dtype=torch.long),
        )


def _picture_beside_text(examples: Examples, task: str) -> NDArray[np.int32]:
    """Returns `(rows,)` the picture of each row that joins a bare text and a bare picture, else -1."""
    found = np.full(examples.rows(task), NONE, np.int32)
    for one, other in permutations((examples.queries[task], examples.positives[task])):
        bare = (one[:, IMAGE] == NONE) & (other[:, IMAGE] != NONE) & (other[:, TEXT] == NONE)
        found[bare] = other[bare, IMAGE]
    return found


def equal_rows(positions: Tensor) -> Tensor:
    """Returns `(n, n)` bool: which rows of `positions (n, parts)` are the same."""
    return (positions[:, None, :] == positions[None, :, :]).all(-1)


class BatchEncoder:
    """Computes the vectors of a batch; `embed_texts` turns `(n,)` text numbers into `(n, dimension)` vectors."""

    def __init__(
        self, encoder: DualEncoder, pixels: NDArray[np.uint8], embed_texts: EmbedParts, schedule: Schedule
    ) -> None:
        self.encoder = encoder
        self.pixels = pixels
        self.embed_texts = embed_texts
        self.schedule = schedule
        self.mean = torch.tensor(IMAGE_MEAN).view(3, 1, 1)
        self.std = torch.tensor(IMAGE_STD).view(3, 1, 1)

    def encode(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Returns queries and positives, `(n, dimension)` each, L2-normalised sums of the parts of each row.

        Every image is augmented once, however often it occurs.
        """
        generator = torch.Generator().manual_seed(self.schedule.seed * 1_000_003 + step)
        positions = torch.cat([batch.queries, batch.positives])

        def embed_images(images: Tensor) -> Tensor:
            padded = images[torch.arange(-(-len(images) // SHAPE) * SHAPE) % len(images)]
            pixels = torch.from_numpy(self.pixels[padded.numpy()]).float() / 255
            mirror = ~torch.isin(padded, batch.unmirrored_images)
            pixels = augment(pixels, generator, self.schedule.augmentation, mirror)
            with autocast(self.schedule.precision):
                return self.encoder.embed_images((pixels - self.mean) / self.std)[: len(images)]

        vectors = sum_of_parts(positions, self.embed_texts, embed_images, self.encoder.description)
        return vectors[: len(batch.queries)], vectors[len(batch.queries) :]


def sum_of_parts(
    positions: Tensor, embed_texts: EmbedParts, embed_images: EmbedParts, description: Description
) -> Tensor:
    """Returns `(n, dimension)`, L2-normalised: each row's weighted sum over the vectors of its parts."""
    total = torch.zeros(len(positions), description.dimension)
    parts = (
        (TEXT, embed_texts, 1.0),
        (IMAGE, embed_images, 1.0),
        (INSTRUCTION, embed_texts, description.instruction_weight),
    )
    for part, embed, weight in parts:
        rows = (positions[:, part] != NONE).nonzero().squeeze(1)
        if len(rows) and weight:
            different, where = positions[rows, part].unique(return_inverse=True)
            total = total.index_add(0, rows, weight * embed(different)[where])
    return functional.normalize(total, dim=-1)

"""Random changes to training images that leave their meaning alone, kept as numbers so that they can be repeated.

Whoever teaches can be shown the very image that the student sees (Beyer et al., Knowledge distillation: A good
teacher is patient and consistent, 2022), and its vectors of it can be stored (Vasu et al., MobileCLIP, 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from components.training.config import Schedule
from components.training.examples import IMAGE, NONE, Examples, require_known

ANGLE, SCALE, STRETCH, MOVE_X, MOVE_Y, MIRROR, GREY, CONTRAST, RED, GREEN, BLUE = range(11)
RANGES = torch.tensor(
    [
        (-0.3, 0.3),
        (-0.2, 0.4),
        (-0.1, 0.1),
        (-0.15, 0.15),
        (-0.15, 0.15),
        (0.0, 1.0),
        (0.0, 1.0),
        (-0.2, 0.2),
        *[(-0.08, 0.08)] * 3,
    ]
)


class Augmentation:
    """How every image of the training set looks at every step: changed afresh, or as one of its `stored` changes.

    Depends on the image and the step alone, whatever else is in the batch.
    """

    def __init__(self, examples: Examples, schedule: Schedule, stored: Tensor | None = None) -> None:
        """`stored (images, views, 11)` as of `changes`; then the strength is what they were drawn with."""
        self.examples = examples
        self.schedule = schedule
        self.stored = stored
        self.fixed = not_flipped(examples, schedule.no_flip_tasks)

    def __call__(self, pixels: Tensor, images: Tensor, step: int) -> Tensor:
        """Returns `pixels (n, 3, size, size)` of the images `images (n,)` as the step shows them."""
        if self.stored is not None:
            return augment(pixels, self.stored[images, self.views(step)[images]].to(pixels.device)).clamp(
                0, 1
            )  # as in a file
        if not self.schedule.augmentation:
            return pixels
        drawn = changes(self.fixed, self.schedule.augmentation, self._seed(step))
        return augment(pixels, drawn[images].to(pixels.device))

    def views(self, step: int) -> Tensor:
        """Returns `(images,)`: which stored view of each image the step shows; 0 where none are stored."""
        if self.stored is None:
            return torch.zeros(len(self.fixed), dtype=torch.long)
        generator = torch.Generator().manual_seed(self._seed(step))
        return torch.randint(self.stored.shape[1], (len(self.fixed),), generator=generator)

    def _seed(self, step: int) -> int:
        return self.schedule.seed * 1_000_003 + step


def not_flipped(examples: Examples, tasks: Sequence[str]) -> Tensor:
    """Returns `(images,)` bool: the images of tasks whose answers depend on left and right.

    Raises `UsageError` if one of `tasks` is no task of the examples.
    """
    require_known(tasks, examples.tasks, "no_flip_tasks")
    fixed = torch.zeros(len(examples.images), dtype=torch.bool)
    for task in tasks:
        for side in (examples.queries[task], examples.positives[task]):
            images = torch.from_numpy(side[:, IMAGE]).long()
            fixed[images[images != NONE]] = True
    return fixed


def changes(fixed: Tensor, strength: float, seed: int) -> Tensor:
    """Returns `(images, 11)` float32: a random change for each image; those marked in `fixed` are not mirrored."""
    generator = torch.Generator().manual_seed(seed)
    low, high = RANGES.T
    drawn: Tensor = torch.rand(len(fixed), len(RANGES), generator=generator) * (high - low) + low
    drawn[:, MIRROR] = ((drawn[:, MIRROR] < 0.5) & ~fixed).float()
    drawn[:, GREY] = (drawn[:, GREY] < 0.1 * strength).float()
    drawn[:, [ANGLE, SCALE, STRETCH, MOVE_X, MOVE_Y, CONTRAST, RED, GREEN, BLUE]] *= strength
    return drawn


def augment(pixels: Tensor, changes: Tensor) -> Tensor:
    """Returns `pixels (n, 3, size, size)` float32 in 0..1 turned, scaled, moved, mirrored and tinted by `changes
    (n, 11)`. What comes in from outside is white, the ground on which the embedder puts every image."""
    scale_x = torch.exp(changes[:, SCALE])
    scale_y = scale_x * torch.exp(changes[:, STRETCH])
    scale_x = scale_x * (1 - 2 * changes[:, MIRROR])
    cosine, sine = torch.cos(changes[:, ANGLE]), torch.sin(changes[:, ANGLE])
    transform = torch.stack(
        [
            torch.stack([cosine * scale_x, -sine * scale_y, changes[:, MOVE_X]], 1),
            torch.stack([sine * scale_x, cosine * scale_y, changes[:, MOVE_Y]], 1),
        ],
        1,
    )
    grid = functional.affine_grid(transform, list(pixels.shape), align_corners=False)
    moved = 1 - functional.grid_sample(1 - pixels, grid, align_corners=False)
    moved = torch.where(changes[:, GREY].bool().view(-1, 1, 1, 1), moved.mean(1, keepdim=True), moved)
    contrast = 1 + changes[:, CONTRAST].view(-1, 1, 1, 1)
    tint = changes[:, [RED, GREEN, BLUE]].view(-1, 3, 1, 1)
    changed: Tensor = moved * contrast + tint
    return changed

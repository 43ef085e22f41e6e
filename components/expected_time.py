"""About how long a training takes on this machine."""

from __future__ import annotations

import time
from itertools import pairwise

from components.training.config import Recipe, Towers

TIMED_STEPS = 2


def training_seconds(recipe: Recipe, rows: int) -> float:
    """Returns about how many seconds a training on so many rows takes: the time of its image tower, forward and back.

    Each phase's steps are as long as the shortest of a few on random images of its size; the first, in which kernels
    are compiled, does not count. The recipe counts in epochs and has two towers, of which the one of texts is frozen.
    """
    import torch
    from sentence_transformers.util import get_device_name

    from components.embedder.config import IMAGE_TOWERS
    from components.embedder.dual_encoder import autocast

    assert isinstance(recipe.backbone, Towers) and recipe.schedule.epochs
    settings, batch, device = recipe.backbone.image, recipe.schedule.batch_size, torch.device(get_device_name())
    tower = IMAGE_TOWERS.of(settings).build(settings)[0].to(device).train()
    steps, seconds = recipe.schedule.epochs * rows / batch, 0.0
    for phase in recipe.phases:
        size = phase.image_size or settings.image_size
        images, clock = torch.rand(batch, 3, size, size, device=device), [time.monotonic()]
        for _ in range(1 + TIMED_STEPS):
            with autocast(recipe.schedule.precision, device):
                loss = tower(pixel_values=images).pooler_output.square().mean()
            loss.backward()
            loss.item()
            clock.append(time.monotonic())
        seconds += steps * phase.fraction * min(after - before for before, after in pairwise(clock[1:]))
    return seconds

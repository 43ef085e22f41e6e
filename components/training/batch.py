"""From rows of the training set to vectors with gradients, each different part of a batch computed once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from components.config import Schedule
from components.embedder.dual_encoder import IMAGE_MEAN, IMAGE_STD, DualEncoder
from components.training.augmentation import augment
from components.training.examples import IMAGE, INSTRUCTION, NONE, TEXT

EmbedTexts = Callable[[Tensor], Tensor]


class BatchEncoder:
    """Encodes `(n, 3)` positions of parts (see `Examples`); `embed_texts` turns text numbers into vectors."""

    def __init__(
        self, encoder: DualEncoder, pixels: NDArray[np.uint8], embed_texts: EmbedTexts, schedule: Schedule
    ) -> None:
        self.encoder = encoder
        self.pixels = pixels
        self.embed_texts = embed_texts
        self.schedule = schedule
        self.mean = torch.tensor(IMAGE_MEAN).view(3, 1, 1)
        self.std = torch.tensor(IMAGE_STD).view(3, 1, 1)

    def __call__(self, positions: Tensor, generator: torch.Generator | None = None, mirror: bool = False) -> Tensor:
        """Returns `(n, dimension)`, L2-normalised: the normalised sum of the vectors of each row's parts.

        With a generator the images are augmented, each one once however often it occurs.
        """
        total = torch.zeros(len(positions), self.encoder.description.dimension)
        for part in (TEXT, INSTRUCTION):
            total = self._add(total, positions[:, part], self.embed_texts)
        total = self._add(total, positions[:, IMAGE], lambda images: self._embed_images(images, generator, mirror))
        return functional.normalize(total, dim=-1)

    def _add(self, total: Tensor, column: Tensor, embed: EmbedTexts) -> Tensor:
        rows = (column != NONE).nonzero().squeeze(1)
        if not len(rows):
            return total
        different, where = column[rows].unique(return_inverse=True)
        return total.index_add(0, rows, embed(different)[where])

    def _embed_images(self, images: Tensor, generator: torch.Generator | None, mirror: bool) -> Tensor:
        pixels = torch.from_numpy(self.pixels[images.numpy()]).float() / 255
        if generator is not None:
            pixels = augment(pixels, generator, self.schedule.augmentation, mirror)
        with self.precision():
            return self.encoder.embed_images((pixels - self.mean) / self.std)

    def precision(self) -> AbstractContextManager[object]:
        """Computes in bfloat16 where the schedule says so; it is an error nowhere, but slow on old processors."""
        return torch.autocast("cpu", torch.bfloat16) if self.schedule.precision == "bfloat16" else nullcontext()

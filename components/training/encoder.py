"""From positions of items to vectors with gradient, each different part of a batch computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers.util import get_device_name
from torch import Tensor, nn
from torch.nn import functional

from components.embedder import Embedder, TorchEmbedder
from components.embedder.dual_encoder import DualEncoder, autocast, save
from components.embedder.runtime import Description
from components.training.augmentation import Augmentation
from components.training.config import Schedule
from components.training.examples import IMAGE, INSTRUCTION, NONE, TEXT, Examples
from components.training.features import colours, pixels, pooled_images, pooled_texts, resized

SHAPE = 64  # images are computed in multiples of this: oneDNN compiles, and keeps, a kernel for every new shape
EmbedParts = Callable[[Tensor], Tensor]


class Encoder(Protocol):
    """What is trained. The vector of an item depends on the item and the step alone, as far as its layers allow."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def dimension(self) -> int: ...

    def __call__(self, positions: Tensor, step: int) -> Tensor:
        """Returns `(n, dimension)` float32, L2-normalised, with gradient, of `positions (n, 3)`."""
        ...

    def prepare(self, schedule: Schedule, folder: Path, image_size: int | None = None) -> None:
        """Makes ready for a phase, in which what is frozen stays so, and images have that size (None: the model's
        own); what is computed once is kept in `folder`."""
        ...

    def views(self, step: int) -> Tensor:
        """Returns `(images,)`: which of its stored views every image of the training set has at the step."""
        ...

    def embedder(self) -> Embedder:
        """Returns the model as it now is, as users would ask it."""
        ...

    def save(self, directory: Path) -> None:
        """Writes a sentence-transformers model directory."""
        ...


class TowersEncoder:
    """A dual encoder, on the accelerator if there is one. The outputs of a tower that is frozen are computed once: an
    image tower's only where images are not changed, for changed images have other outputs."""

    def __init__(self, encoder: DualEncoder, examples: Examples, stored_changes: Tensor | None = None) -> None:
        self.module = encoder.to(get_device_name())
        self.device = encoder.model.device
        self.dimension = encoder.description.dimension
        self.examples = examples
        self.stored_changes = stored_changes
        self.images: NDArray[np.uint8] | None = None

    def prepare(self, schedule: Schedule, folder: Path, image_size: int | None = None) -> None:
        text_frozen, image_frozen = (
            not any(parameter.requires_grad for parameter in tower.parameters())
            for tower in (self.module.model.text_model, self.module.model.vision_model)
        )
        self.precision, self.folder, self.image_size = schedule.precision, folder, image_size
        self.augmentation = Augmentation(self.examples, schedule, self.stored_changes)
        unchanged = not schedule.augmentation and self.stored_changes is None
        self.embed_texts = self._frozen_texts() if text_frozen else self._texts()
        self.embed_images = self._frozen_images() if image_frozen and unchanged else self._images()

    def views(self, step: int) -> Tensor:
        return self.augmentation.views(step)

    def __call__(self, positions: Tensor, step: int) -> Tensor:
        return sum_of_parts(
            positions,
            self.embed_texts,
            lambda images: self.embed_images(images, step),
            self.module.description,
            self.device,
        )

    def embedder(self) -> Embedder:
        return TorchEmbedder(self.module, precision=self.precision)

    def save(self, directory: Path) -> None:
        save(self.module, directory)

    def _frozen_texts(self) -> EmbedParts:
        path = self.folder / "texts.npy"
        pooled = torch.from_numpy(pooled_texts(self.module, self.examples.texts, path, self.precision))
        return lambda texts: self.module.project_text(pooled[texts].to(self.device))

    def _texts(self) -> EmbedParts:
        tokens = self.module.tokens(self.examples.texts)

        def embed(texts: Tensor) -> Tensor:
            mask = tokens["attention_mask"][texts]
            longest = int(mask.sum(1).max())
            ids, mask = tokens["input_ids"][texts, :longest].to(self.device), mask[:, :longest].to(self.device)
            with autocast(self.precision, self.device):
                return self.module.embed_text(ids, mask).float()

        return embed

    def _frozen_images(self) -> Callable[[Tensor, int], Tensor]:
        path = self.folder / "pooled_images.npy"
        pooled = torch.from_numpy(np.array(pooled_images(self.module, self._pixels(), path, self.precision)))
        return lambda images, step: self.module.project_image(pooled[images].to(self.device))

    def _images(self) -> Callable[[Tensor, int], Tensor]:
        every = self._pixels()
        mean, std = colours(self.module)

        def embed(images: Tensor, step: int) -> Tensor:
            padded = images[torch.arange(-(-len(images) // SHAPE) * SHAPE) % len(images)]
            shown = torch.from_numpy(every[padded.numpy()]).to(self.device).float() / 255
            changed = self.augmentation(shown, padded, step)
            with autocast(self.precision, self.device):
                return self.module.embed_images((changed - mean) / std)[: len(images)]

        return embed

    def _pixels(self) -> NDArray[np.uint8]:
        own_size = self.module.description.image_size
        if self.images is None:  # a later phase shows the same ones
            self.images = pixels(self.examples.images, own_size, self.folder / "images.npy")
        if self.image_size in (None, own_size):
            return self.images
        return resized(self.images, self.image_size, self.folder / "resized_images.npy")


def sum_of_parts(
    positions: Tensor,
    embed_texts: EmbedParts,
    embed_images: EmbedParts,
    description: Description,
    device: torch.device | None = None,
) -> Tensor:
    """Returns `(n, dimension)` on `device`, L2-normalised: each row's weighted sum over the vectors of its parts."""
    total = torch.zeros(len(positions), description.dimension, device=device)
    parts = (
        (TEXT, embed_texts, 1.0),
        (IMAGE, embed_images, 1.0),
        (INSTRUCTION, embed_texts, description.instruction_weight),
    )
    for part, embed, weight in parts:
        rows = (positions[:, part] != NONE).nonzero().squeeze(1)
        if len(rows) and weight:
            different, where = positions[rows, part].unique(return_inverse=True)
            total = total.index_add(0, rows.to(device), weight * embed(different).index_select(0, where.to(device)))
    return functional.normalize(total, dim=-1)

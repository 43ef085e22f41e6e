"""Any sentence-transformers model in training: it computes what users will ask it for, and keeps the gradient."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from torch import Tensor
from torch.nn import functional

from components.backends.sentence_transformer import Part, SentenceTransformerEmbedder, batches, parts_of
from components.embedder import Embedder
from components.embedder.dual_encoder import Precision, autocast
from components.errors import UsageError
from components.training.config import Schedule
from components.training.examples import NONE, Examples


class ModelEncoder:
    """Encodes items as `SentenceTransformerEmbedder` does: text and image in one input where the model takes them so,
    else as the normalised sum of their parts. What occurs several times among the rows is computed once."""

    def __init__(
        self, model: SentenceTransformer, examples: Examples, precision: Precision, gradient_checkpointing: bool = False
    ) -> None:
        if gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        self.module = model
        self.examples = examples
        self.precision = precision
        self.dimension = self.embedder().dimension

    def prepare(self, schedule: Schedule, folder: Path, image_size: int | None = None) -> None:
        """Raises `UsageError` if images are to be changed: the model's image processor reads them as they are."""
        if schedule.augmentation:
            raise UsageError(
                f"schedule.augmentation: a whole model's images are not changed, got {schedule.augmentation}",
                "Set it to 0, or train a backbone of kind towers.",
            )

    def views(self, step: int) -> Tensor:
        """Returns `(images,)`: 0, every image has one view."""
        return torch.zeros(len(self.examples.images), dtype=torch.long)

    def __call__(self, positions: Tensor, step: int) -> Tensor:
        """Returns `(n, dimension)` float32, L2-normalised, with gradient, of `positions (n, 3)`; zeros for a row of no
        parts, as of a hard negative where there are too few.

        Raises `UsageError` that names the item which the model does not take, or the image that cannot be read.
        """
        different: dict[Hashable, Part] = {}
        pairs: list[tuple[int, int]] = []
        for row in (positions != NONE).any(1).nonzero().flatten().tolist():
            for part in parts_of(row, self.examples.item(positions[row].tolist()), self.module, "the model"):
                known = different.setdefault((*part.content.items(), part.prompt), replace(part, row=len(different)))
                pairs.append((row, known.row))
        device = self.module.device
        rows, numbers = torch.tensor(pairs, dtype=torch.long, device=device).view(-1, 2).unbind(1)
        total = torch.zeros(len(positions), self.dimension, device=device)
        vectors = self._vectors(list(different.values()))
        return functional.normalize(total.index_add(0, rows, vectors.index_select(0, numbers)), dim=-1)

    def embedder(self) -> Embedder:
        return SentenceTransformerEmbedder(self.module)

    def save(self, directory: Path) -> None:
        self.module.save(str(directory), create_model_card=False)

    def _vectors(self, parts: Sequence[Part]) -> Tensor:
        """Returns `(parts, dimension)`, L2-normalised, the vector of a part where its `row` says."""
        model = self.module
        default = model.prompts.get(model.default_prompt_name) if model.default_prompt_name else None
        vectors = torch.zeros(len(parts), self.dimension, device=model.device)
        for rows, inputs, prompt in batches(parts, model, len(parts)):
            features = model.preprocess(inputs, prompt=default if prompt is None else prompt)
            with autocast(self.precision, model.device):
                encoded = model(batch_to_device(features, model.device))["sentence_embedding"]
            where = torch.tensor(rows, device=model.device)
            vectors = vectors.index_add(0, where, functional.normalize(encoded.float(), dim=-1))
        return vectors

"""Multilingual distillation: a translation is pulled to the teacher's vector of what it translates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from components.sections import Section
from components.training import losses
from components.training.losses import SubBatch
from components.training.losses.vectors import projections


class Settings(Section):
    pass


class Loss(losses.Loss):
    """Both sides of a pair learn the teacher's vector of the positive, the English side (Reimers and Gurevych, Making
    Monolingual Sentence Embeddings Multilingual, 2020; with images, xVLM2Vec, Musacchio et al., 2025).

        mean over rows, sides x and teachers t of 1 - cos(P_t student(x), t(positive))

    `P_t` as in the loss `vectors`.
    """

    of_prefixes = False
    needs_teacher = True

    def __init__(self, settings: Settings, dimension: int, teacher_dimensions: Sequence[int]) -> None:
        super().__init__(settings, dimension, teacher_dimensions)
        self.projections = projections(dimension, teacher_dimensions)

    def forward(self, batch: SubBatch) -> Tensor:
        sides = torch.stack([batch.queries, batch.positives])
        distances = [
            (1 - functional.cosine_similarity(projection(sides), teacher.positives, dim=-1)).mean()
            for projection, teacher in zip(self.projections, batch.teachers, strict=True)
        ]
        return torch.stack(distances).mean()

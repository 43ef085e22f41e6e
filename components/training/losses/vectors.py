"""Vector distillation: the student's vector of an item points where the teachers' vectors of it point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.sections import Section
from components.training import losses
from components.training.losses import SubBatch, TeacherTargets


class Settings(Section):
    pass


class Loss(losses.Loss):
    """One minus the cosine to the teacher's vector (Kim et al., EmbedDistill, 2023; Zhang et al., Jasper, 2024).

        mean over items x and teachers t of 1 - cos(P_t student(x), t(x))

    Items are queries, positives, and negatives where the teacher has vectors of them. `P_t` is a learnt linear
    projection to the teacher's space, the identity where the dimensions are equal; it is dropped after training.
    """

    of_prefixes = False
    needs_teacher = True

    def __init__(self, settings: Settings, dimension: int, teacher_dimensions: Sequence[int]) -> None:
        super().__init__(settings, dimension, teacher_dimensions)
        self.projections = projections(dimension, teacher_dimensions)

    def forward(self, batch: SubBatch) -> Tensor:
        student = _items(batch)
        distances = []
        for projection, teacher in zip(self.projections, batch.teachers, strict=True):
            taught = _items(teacher)
            projected = projection(student[:, : taught.shape[1]])
            distances.append((1 - functional.cosine_similarity(projected, taught, dim=-1)).mean())
        return torch.stack(distances).mean()


def projections(dimension: int, teacher_dimensions: Sequence[int]) -> nn.ModuleList:
    """Returns for each teacher what brings the student's vectors to its space: nothing where dimensions are equal."""
    return nn.ModuleList(
        nn.Identity() if theirs == dimension else nn.Linear(dimension, theirs) for theirs in teacher_dimensions
    )


def _items(side: SubBatch | TeacherTargets) -> Tensor:
    """Returns `(n, 2 + k, dimension)`: the query, the positive and the negatives of each row."""
    pair = torch.stack([side.queries, side.positives], 1)
    return pair if side.negatives is None else torch.cat([pair, side.negatives], 1)

"""Relative similarity distillation: of two pairs of items, the one more alike to the teachers is so to the student."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from components.sections import Positive, Rate, Section
from components.training import losses
from components.training.losses import SubBatch
from components.training.losses.structure import cosines_within


class Settings(Section):
    margin: Rate = 0.015
    pairs: Positive = 2048


class Loss(losses.Loss):
    """The relative similarity distillation of Zhang et al., Jasper and Stella (2024).

        mean over pairs of pairs with teacher(i, j) > teacher(k, l) of
        max(0, student(k, l) - student(i, j) + margin)

    Pairs are of different queries or of different positives, `(n, n)` cosines above the diagonal; the mean of the two
    kinds. Every pair is held against every other, which grows with `n ** 4`: beyond `pairs` pairs (64 rows have 2016)
    we compare every second of them, or third, and so on, which the paper does not. The paper's margin is 0.015.
    """

    needs_teacher = True
    settings: Settings

    def forward(self, batch: SubBatch) -> Tensor:
        return torch.stack([self._hinge(student, teacher) for student, teacher in cosines_within(batch)]).mean()

    def _hinge(self, student: Tensor, teacher: Tensor) -> Tensor:
        rows, columns = torch.triu_indices(len(student), len(student), 1, device=student.device)
        step = max(1, math.ceil(len(rows) / self.settings.pairs))
        student, teacher = (cosines[rows, columns][::step] for cosines in (student, teacher))
        ordered = teacher.unsqueeze(1) > teacher
        excess = functional.relu(student - student.unsqueeze(1) + self.settings.margin)
        return (excess * ordered).sum() / ordered.sum().clamp(min=1)

"""Structure distillation: what is alike to the teachers is as much alike to the student, query to query too."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from components.sections import Section
from components.training import losses
from components.training.losses import SubBatch


class Settings(Section):
    pass


class Loss(losses.Loss):
    """The similarity loss of Zhang et al., Jasper and Stella (2024), within queries and within positives.

        mean over i, j of (student's cos(x_i, x_j) - teacher's cos(x_i, x_j)) ** 2

    The mean of the two. Several teachers are one whose vectors are theirs in a row, as in the paper: its cosine is the
    mean of theirs.
    """

    needs_teacher = True

    def forward(self, batch: SubBatch) -> Tensor:
        differences = [functional.mse_loss(student, teacher) for student, teacher in cosines_within(batch)]
        return torch.stack(differences).mean()


def cosines_within(batch: SubBatch) -> list[tuple[Tensor, Tensor]]:
    """Returns the student's and the teachers' cosines `(n, n)` among the queries, then those among the positives."""
    sides = (
        (batch.queries, [teacher.queries for teacher in batch.teachers]),
        (batch.positives, [teacher.positives for teacher in batch.teachers]),
    )
    return [
        (student @ student.T, torch.stack([vectors @ vectors.T for vectors in teachers]).mean(0))
        for student, teachers in sides
    ]

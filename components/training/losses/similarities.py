"""Similarity distillation: the student ranks a sub-batch's positives for a query as the teachers do, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from components.sections import Rate, Section
from components.training import losses
from components.training.losses import SubBatch


class Settings(Section):
    student_temperature: Rate
    teacher_temperature: Rate


class Loss(losses.Loss):
    """Cross entropy of the in-batch similarity distributions, the mean of both directions.

        mean_i -sum_j p_ij log softmax_j(s_ij / student_temperature),
        p_i = mean over teachers of softmax(teacher's similarities of i / teacher_temperature)

    The affinity mimicking of Wu et al., TinyCLIP (2023), over the teacher ensemble of Vasu et al., MobileCLIP (2024).
    """

    needs_teacher = True
    settings: Settings

    def forward(self, batch: SubBatch) -> Tensor:
        student = batch.queries @ batch.positives.T / self.settings.student_temperature
        teachers = torch.stack([teacher.queries @ teacher.positives.T for teacher in batch.teachers])
        teachers = teachers / self.settings.teacher_temperature
        return (
            functional.cross_entropy(student, teachers.softmax(-1).mean(0))
            + functional.cross_entropy(student.T, teachers.mT.softmax(-1).mean(0))
        ) / 2

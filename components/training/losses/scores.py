"""Score distillation: the student weighs a query's positive and hard negatives as a reranker or the teachers do."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from components.errors import UsageError
from components.sections import Rate, Section
from components.training import losses
from components.training.losses import SubBatch, TeacherTargets, absent

EXCLUDED = -1e4  # finite, for the logarithm of a probability of 0 is wanted


class Settings(Section):
    student_temperature: Rate
    teacher_temperature: Rate


class Loss(losses.Loss):
    """Divergence of the scores of each query's positive and negatives (Lin et al., Distilling Dense Representations
    for Ranking using Tightly-Coupled Teachers, 2020).

        mean_i KL(p_i || softmax(s_i / student_temperature)) * student_temperature ** 2

    `s_i` are the student's cosines of row `i`: to its positive, to each of its own negatives. `p_i` is the softmax of
    the reranker's scores over `teacher_temperature`, or, where there is no reranker, the mean over the teachers of the
    softmax of their cosines over it. The square keeps the gradient's size whatever the temperature (Hinton et al.,
    Distilling the Knowledge in a Neural Network, 2015).

    Raises `UsageError` if there are no negatives, or nothing that scores them.
    """

    settings: Settings

    def forward(self, batch: SubBatch) -> Tensor:
        if batch.negatives is None:
            raise UsageError(
                "loss scores: the rows have no hard negatives against which to weigh the positive",
                "Mine hard negatives (negatives, negatives_per_query), or take the loss out of the recipe.",
            )
        missing = functional.pad(absent(batch.negatives), (1, 0))
        student = (_cosines(batch) / self.settings.student_temperature).masked_fill(missing, EXCLUDED)
        divergence = functional.kl_div(student.log_softmax(1), self._taught(batch, missing), reduction="batchmean")
        return divergence * self.settings.student_temperature**2

    def _taught(self, batch: SubBatch, missing: Tensor) -> Tensor:
        """Returns `(n, 1 + k)`: the probability of each candidate, 0 of those that are missing."""
        if batch.scores is not None:
            return self._probabilities(batch.scores, missing)
        if not batch.teachers or any(teacher.negatives is None for teacher in batch.teachers):
            raise UsageError(
                "loss scores: neither a reranker nor a teacher has scored the hard negatives",
                "Take the loss out of the recipe, or train a model that has a teacher with it.",
            )
        return torch.stack([self._probabilities(_cosines(teacher), missing) for teacher in batch.teachers]).mean(0)

    def _probabilities(self, scores: Tensor, missing: Tensor) -> Tensor:
        return (scores / self.settings.teacher_temperature).masked_fill(missing, -torch.inf).softmax(1)


def _cosines(side: SubBatch | TeacherTargets) -> Tensor:
    """Returns `(n, 1 + k)`: of each query to its positive and to its own negatives."""
    assert side.negatives is not None
    candidates = torch.cat([side.positives.unsqueeze(1), side.negatives], 1)
    return torch.einsum("nd,nkd->nk", side.queries, candidates)

"""SigLIP: every pair of a query and a candidate is a question of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.sections import Rate, Section
from components.training import losses
from components.training.losses import SubBatch


class Settings(Section):
    """Where the learnt temperature and bias start; the defaults are SigLIP's."""

    temperature: Rate = 0.1
    bias: float = -10.0


class Loss(losses.Loss):
    """The pairwise sigmoid loss (Zhai et al., Sigmoid Loss for Language Image Pre-Training, 2023).

        mean_i sum_j -log sigmoid(z_ij (s_ij / t + b)),  z_ij = 1 for the positive, -1 for a negative

    `j` runs over all positives and row `i`'s own negatives, `t` and `b` are learnt. Rows with an equal query or
    positive are neither positives nor negatives of each other: they are left out.
    """

    def __init__(self, settings: Settings, dimension: int, teacher_dimensions: Sequence[int]) -> None:
        super().__init__(settings, dimension, teacher_dimensions)
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))
        self.bias = nn.Parameter(torch.tensor(settings.bias))

    def forward(self, batch: SubBatch) -> Tensor:
        logits = self.logit_scale.exp() * batch.similarities() + self.bias
        sign = 2 * torch.eye(*logits.shape, dtype=logits.dtype, device=logits.device) - 1
        return -functional.logsigmoid(sign * logits).masked_fill(batch.excluded(), 0).sum(1).mean()

    def logged(self) -> dict[str, float]:
        return {"temperature": 1 / self.logit_scale.exp().item(), "bias": self.bias.item()}

"""The squared distance of a query to its positive, against that to the others."""

from __future__ import annotations

from torch import Tensor

from components.sections import NotNegative, Section
from components.training import losses
from components.training.losses import SubBatch


class Settings(Section):
    margin: NotNegative


class Loss(losses.Loss):
    def forward(self, batch: SubBatch) -> Tensor:
        distances = 2 - 2 * batch.similarities()
        return (distances.diagonal() - distances.mean(1) + self.settings.margin).relu().mean()

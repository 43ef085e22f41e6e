"""InfoNCE: the positive against all that the sub-batch has of negatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from components.sections import Rate, Section, demand
from components.training import losses
from components.training.losses import SubBatch

MAX_SCALE = 100.0


class Settings(Section):
    temperature: Rate
    learnt: bool = False
    directions: Literal["both", "query_to_positive"] = "both"
    hardness: Annotated[float, Field(ge=0)] = 0.0
    false_negative_margin: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _can_be_learnt(self) -> Self:
        possible = not self.learnt or self.temperature * MAX_SCALE >= 1
        return demand(self, possible, f"a learnt temperature must be at least {1 / MAX_SCALE}, got {self.temperature}")


class Loss(losses.Loss):
    """InfoNCE (van den Oord et al., 2018) on cosines `s`, with what later work added to it.

        mean_i -log( exp(s_ii / t) / (exp(s_ii / t) + sum_j exp(s_ij / t + hardness * stop(s_ij))) )

    `j` runs over the positives of other rows and row `i`'s own negatives (Chen et al., mmE5, 2025: no other row sees
    them). Rows with an equal query or positive are left out. `directions: both` is the mean with the same from
    positives to queries, where there are no own negatives (Radford et al., CLIP, 2021). A learnt temperature starts at
    `temperature`; `1 / t` never exceeds 100, as in CLIP. `hardness` is the penalty of Lan et al., LLaVE (2025), who
    take 9; `stop` lets no gradient pass. Above `s_ii + false_negative_margin` a negative is taken for a false one and
    left out (Gu et al., UniME, 2025, who take 0.1; Jian et al., RzenEmbed, 2025); null leaves none out.
    """

    settings: Settings

    def __init__(self, settings: Settings, dimension: int, teacher_dimensions: Sequence[int]) -> None:
        super().__init__(settings, dimension, teacher_dimensions)
        if settings.learnt:
            self.logit_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))

    def forward(self, batch: SubBatch) -> Tensor:
        similarities, excluded = batch.similarities(), batch.excluded()
        loss = self._cross_entropy(similarities, excluded)
        if self.settings.directions == "query_to_positive":
            return loss
        rows = len(similarities)
        return (loss + self._cross_entropy(similarities[:, :rows].T, excluded[:, :rows].T)) / 2

    def logged(self) -> dict[str, float]:
        return {"temperature": 1 / torch.as_tensor(self._scale()).item()} if self.settings.learnt else {}

    def _scale(self) -> Tensor | float:
        if not self.settings.learnt:
            return 1 / self.settings.temperature
        with torch.no_grad():  # clamping the result instead would have no gradient, and hence no way back
            self.logit_scale.clamp_(max=math.log(MAX_SCALE))
        return self.logit_scale.exp()

    def _cross_entropy(self, similarities: Tensor, excluded: Tensor) -> Tensor:
        fixed = similarities.detach()
        positive = torch.eye(*fixed.shape, dtype=torch.bool, device=fixed.device)
        logits = self._scale() * similarities + self.settings.hardness * fixed.masked_fill(positive, 0)
        if self.settings.false_negative_margin is not None:
            excluded = excluded | (fixed > fixed.diagonal().unsqueeze(1) + self.settings.false_negative_margin)
        return functional.cross_entropy(
            logits.masked_fill(excluded, -torch.inf), torch.arange(len(logits), device=logits.device)
        )

"""The section `promotion` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.sections import Fraction, Positive, Rate, Section


class Promotion(Section):
    floors: dict[str, Fraction]
    margin: Fraction
    max_task_drop: Fraction
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    max_tie_rate: Fraction
    min_parity_cosine: Fraction
    max_latency_ms: Rate
    max_size_bytes: Positive
    sign_flips: Positive

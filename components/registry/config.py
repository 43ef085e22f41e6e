"""The section `promotion` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.sections import Fraction, Positive, Rate, Section


class Slice(Section):
    """How much the score on some of the sets may drop: on `sets`, or, without them, on those whose distribution
    (`OOD`), meta-task (`vqa`) or modality (`visdoc`) the slice is named after."""

    max_drop: Fraction
    sets: Annotated[list[str], Field(min_length=1)] | None = None


class Registry(Section):
    """`mirror` is a second copy of the ledger: a file of the workspace that is committed with git, such as
    `ledger.jsonl`, or an object, `s3://BUCKET/KEY`."""

    mirror: str | None = None


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
    slices: dict[str, Slice] = Field(default_factory=dict)
    on_not_worse: Literal["keep", "take"] = "take"
    approval: Literal["automatic", "required"] = "automatic"

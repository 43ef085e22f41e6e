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


class Promotion(Section):
    """What the gates ask of a challenger; `components/registry/gate.py` says how.

    The infrastructure blessing sends `concurrency` requests at a time; a challenger whose latency or throughput is
    surely more than `max_slowdown` times as bad as the champion's is refused (null: it is only measured). `licences`
    are the SPDX names of those that a bundle's files may be under (null: any); NOASSERTION stands for an unknown one.
    """

    floors: dict[str, Fraction]
    margin: Fraction
    max_task_drop: Fraction
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    max_tie_rate: Fraction
    min_parity_cosine: Fraction
    max_latency_ms: Rate
    max_size_bytes: Positive
    sign_flips: Positive
    concurrency: Positive = 4
    max_slowdown: Rate | None = 1.5
    licences: list[str] | None = None
    slices: dict[str, Slice] = Field(default_factory=dict)
    on_not_worse: Literal["keep", "take"] = "take"

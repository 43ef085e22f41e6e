"""The section `promotion` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from components.sections import Fraction, Positive, Rate, Section


class Slice(Section):
    """How much the score on some of the queries may drop: on those of `sets`, or, without them, of the sets whose
    distribution (`OOD`), meta-task (`vqa`) or modality (`visdoc`) the slice is named after.

    With `where`, only on the queries whose row has these values in these columns of the evaluation set's file, whatever
    the slice is called; `text_only` (`"true"`, `"false"`) says whether neither the query nor a candidate is an image.
    """

    max_drop: Fraction
    sets: Annotated[list[str], Field(min_length=1)] | None = None
    where: Annotated[dict[str, str], Field(min_length=1)] | None = None


class Metric(Section):
    """What another metric of the score file must reach, and how much it may drop below the champion's: its mean over
    the sets. The file keeps no values of it by query, so that the drop is taken as it is, without an interval."""

    floor: Fraction | None = None
    max_drop: Fraction | None = None


DEV = "dev"


class Registry(Section):
    """`environment` is what this workspace serves; each has a registered model, an experiment and a ledger of its own.

    `mirror` is a second copy of the ledger: a file of the workspace that is committed with git, such as
    `ledger.jsonl`, or an object, `s3://BUCKET/KEY`. `openlineage` is the address of a collector of OpenLineage events,
    such as Marquez; it gets those of each round when the round has ended.
    """

    environment: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")] = DEV
    mirror: str | None = None
    openlineage: Annotated[str, Field(pattern=r"^https?://")] | None = None


def named(name: str, environment: str) -> str:
    """Returns what something of an environment is called in MLflow; that of `dev` has the plain name."""
    return name if environment == DEV else f"{name}-{environment}"


class Promotion(Section):
    """What the gates ask of a challenger; `components/registry/gate.py` says how.

    `min_rank_agreement` is the least share of an item's ten nearest that the exported model must have in common with
    the trained one. The infrastructure blessing sends `concurrency` requests at a time; a challenger whose latency or
    throughput is surely more than `max_slowdown` times as bad as the champion's is refused (null: it is only measured).
    `licences` are the SPDX names of those that a bundle's files may be under (null: any); NOASSERTION stands for an
    unknown one. `metrics` are limits for others than the primary metric of each set, such as `mrr@10`.
    """

    floors: dict[str, Fraction]
    margin: Fraction
    max_task_drop: Fraction
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    max_tie_rate: Fraction
    min_parity_cosine: Fraction
    min_rank_agreement: Fraction = 0.8
    max_latency_ms: Rate
    max_size_bytes: Positive
    sign_flips: Positive
    concurrency: Positive = 4
    max_slowdown: Rate | None = 1.5
    licences: list[str] | None = None
    slices: dict[str, Slice] = Field(default_factory=dict)
    metrics: dict[str, Metric] = Field(default_factory=dict)
    on_not_worse: Literal["keep", "take"] = "take"
    approval: Literal["automatic", "required"] = "automatic"

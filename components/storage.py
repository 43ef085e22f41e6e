"""The section `storage` of `params.yaml`: what stays when space is made, and where others find what a round made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from components.sections import NotNegative, Section

Count = Annotated[int, Field(ge=0)]


class Storage(Section):
    """`keep_champions` former champions stay whole, beside the present one; what was not written to for
    `keep_checkpoint_days` days no training goes on from."""

    keep_champions: Count = 5
    keep_checkpoint_days: NotNegative = 7.0

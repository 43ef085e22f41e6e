"""The section `storage` of `params.yaml`: what stays when space is made, and where others find what a round made."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from components.sections import NotNegative, Section

Count = Annotated[int, Field(ge=0)]


class Remote(Section):
    """A DVC remote: its URL, and whatever else DVC knows of that kind (`endpointurl`, `profile`, `region`)."""

    model_config = ConfigDict(extra="allow")

    url: Annotated[str, Field(min_length=1)]

    @property
    def settings(self) -> dict[str, str]:
        """What DVC's configuration says of it."""
        return {name: str(value) for name, value in self.model_dump().items()}


class Storage(Section):
    """`keep_champions` former champions stay whole, beside the present one; what was not written to for
    `keep_checkpoint_days` days no training goes on from.

    `remote` gets what a round made, and gives what is not here. `tracking_uri` is MLflow's database or server
    (`MLFLOW_TRACKING_URI` overrides it), `artifacts` where MLflow keeps bundles, `s3://BUCKET/PREFIX`; null: the
    workspace keeps them. Passwords belong into the environment.
    """

    keep_champions: Count = 5
    keep_checkpoint_days: NotNegative = 7.0
    remote: Remote | None = None
    tracking_uri: str | None = None
    artifacts: str | None = None

"""The section `monitoring` of `params.yaml`, which may be left out."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from components.found_by_name import FoundByName
from components.sections import Fraction, NotNegative, Positive, Rate, Section, Seed, demand

TESTS = FoundByName("monitoring.drift", "name")
ALERTS = FoundByName("monitoring.alerts", "name")


class Policy(Section):
    """When to retrain: at any of the triggers that are set, unless one of the guards forbids it.

    Triggers: an alarm in `alarms` of the last `of_windows` windows, a quality that fell by `quality_drop`, `every_days`
    since the last time. Guards: `new_requests` since then, `cool_down_days` since then, `budget_a_month` in the same
    unit as `cost`, that of one retraining.
    """

    alarms: Positive | None = None
    of_windows: Positive = 1
    quality_drop: Rate | None = None
    every_days: Rate | None = None
    new_requests: Annotated[int, Field(ge=0)] = 0
    cool_down_days: NotNegative = 0.0
    cost: NotNegative = 1.0
    budget_a_month: Rate | None = None

    @model_validator(mode="after")
    def _has_a_trigger(self) -> Self:
        there = any(trigger is not None for trigger in (self.alarms, self.quality_drop, self.every_days))
        return demand(self, there, "needs one of alarms, quality_drop, every_days")

    @model_validator(mode="after")
    def _so_many_alarms_fit(self) -> Self:
        fits = self.alarms is None or self.alarms <= self.of_windows
        return demand(self, fits, "alarms: more than of_windows")


POLICIES = {
    "alarm": Policy(alarms=2, of_windows=3, new_requests=1000, cool_down_days=1.0),
    "quality": Policy(quality_drop=0.02, new_requests=1000, cool_down_days=1.0),
    "monthly": Policy(every_days=30.0),
}


class Monitoring(Section):
    """`tests` are files of monitoring/drift with their settings; None takes all of them as they are by default.

    A window holds `requests_a_window`, or what came in 24 hours / `windows_a_day` if that is None. `slices` are the
    columns whose values are looked at apart, where both sides have `min_requests`; so many a window needs, too. `most`
    requests a side are compared. `block` requests that follow each other are moved together by a permutation, which
    correlated requests need. A shift counts as one that costs nothing only where quality was measured and did not fall
    by `harm` or more. `kappa` is that of the e-values. `embedline monitor` removes what was recorded more than
    `retention_days` ago, nothing if that is None. The first `reference_requests` that a version answers are its
    reference, and its windows are judged after them; None takes the reference of the bundle.
    """

    false_alarms_per_month: Rate = 1.0
    windows_a_day: Positive = 24
    requests_a_window: Positive | None = None
    min_requests: Annotated[int, Field(ge=10)] = 100
    reference_requests: Annotated[int, Field(ge=10)] | None = None
    most: Annotated[int, Field(ge=10)] = 2500
    permutations: Annotated[int, Field(ge=19)] = 999
    block: Positive = 1
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    kappa: Annotated[float, Field(gt=0, lt=1)] = 0.2
    slices: list[str] = Field(default_factory=lambda: ["modality", "language"])
    tests: list[Annotated[Any, TESTS]] | None = None
    harm: Fraction = 0.02
    retention_days: Rate | None = None
    policies: dict[str, Policy] = Field(default_factory=lambda: dict(POLICIES))
    retrain: str | None = None
    alerts: list[Annotated[Any, ALERTS]] = Field(default_factory=lambda: [{"name": "log"}], validate_default=True)
    seed: Seed = 0

    @model_validator(mode="after")
    def _retrains_by_a_policy(self) -> Self:
        there = self.retrain is None or self.retrain in self.policies
        return demand(self, there, f"retrain: {self.retrain} is none of policies: {', '.join(self.policies)}")

    def modules(self) -> list[str]:
        return [f"{TESTS.package}.{test.name}" for test in self.chosen()]

    def chosen(self) -> list[Any]:
        """Returns the settings of the tests that are made."""
        return self.tests if self.tests is not None else [TESTS.settings(name)() for name in TESTS.names()]

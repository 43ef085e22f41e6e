"""The stage `validate`: is the data set fit to train on?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.validation import run as validate
from components.workspace import DATA, VALIDATION

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = ("validation",)


def run(config: Config, run: Run) -> None:
    run.log_metrics(validate(config.validation, DATA, VALIDATION).metrics)

"""The stage `negatives`: hard negatives of every training row, where a model is named that mines them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.training.mining import mine_negatives
from components.workspace import DATA, NEGATIVES

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = ("negatives",)


def run(config: Config, run: Run) -> None:
    mine_negatives(config.negatives, DATA, NEGATIVES)

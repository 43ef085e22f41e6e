"""The stage `export`: the student as ONNX graphs, each variant proved to answer as the student does, one chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.evaluation.dev_score import DevScorer
from components.export.choice import markdown, write_choice
from components.export.export import export
from components.export.sample import training_items
from components.progress import print_progress
from components.workspace import DATA, ONNX, STUDENT

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = CHOOSES = ("export",)
FINDS = ("components.export.exporters",)


def run(config: Config, run: Run) -> None:
    settings = config.export
    for variant, found in export(settings, STUDENT, DATA, ONNX).items():
        run.log_metrics({f"parity/{variant}/{name}": value for name, value in found.numbers.items()})
    if settings.max_score_loss is not None:
        score = DevScorer(DATA).scores
        chosen = write_choice(ONNX, settings.names, training_items(DATA), score, settings.max_score_loss)
        print_progress(markdown(chosen))

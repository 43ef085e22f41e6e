"""The stage `distill`: trains the student by its recipe, with what the teacher knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.evaluation.dev_score import DevScorer
from components.stages.training_progress import progress
from components.training.train import TrainingPaths, train_model
from components.workspace import CHECKPOINTS, DATA, EMBEDDINGS, NEGATIVES, STUDENT, TEACHER

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = CHOOSES = ("distillation",)


def run(config: Config, run: Run) -> None:
    paths = TrainingPaths(DATA, NEGATIVES, STUDENT, CHECKPOINTS, TEACHER, EMBEDDINGS)
    train_model(config.distillation, paths, progress(run, config.distillation), DevScorer(DATA))

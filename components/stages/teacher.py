"""The stage `teacher`: fine-tunes the teacher by its recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.evaluation.dev_score import DevScorer
from components.stages.training_progress import progress
from components.training.train import TrainingPaths, train_model
from components.workspace import CHECKPOINTS, DATA, NEGATIVES, TEACHER

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = CHOOSES = ("teacher",)


def run(config: Config, run: Run) -> None:
    paths = TrainingPaths(DATA, NEGATIVES, TEACHER, CHECKPOINTS)
    train_model(config.teacher, paths, progress(run, config.teacher), DevScorer(DATA))

"""The stage `embed_teacher`: the teachers' vectors of the training set, which the student learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.training.teachers import embed_with_teacher
from components.workspace import DATA, EMBEDDINGS, TEACHER

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = ("teacher_embeddings",)


def run(config: Config, run: Run) -> None:
    embed_with_teacher(config.teacher_embeddings, TEACHER, DATA, EMBEDDINGS)

"""One number for a model in training: its overall score on the dev split, which no gate sees."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from components.embedder import Embedder
from components.evaluation.config import Evaluation
from components.evaluation.report import evaluate
from components.evaluation.sets import read_suite
from components.evaluation.vectors import Done
from components.scores import Model, Scores


@dataclass(frozen=True)
class DevScorer:
    """Scores embedders on the dev split of `data`."""

    data: Path
    batch_size: int = 256

    def __call__(self, embedder: Embedder) -> float:
        """Returns the mean over the dev sets, 0 to 1. Raises as `evaluate` does."""
        return self.scores(embedder).aggregates["overall"]

    def scores(self, embedder: Embedder) -> Scores:
        """Returns the scores on the dev sets. Raises as `evaluate` does."""
        model = Model(embedder.name, "in training", embedder.dimension, 0)
        with tempfile.TemporaryDirectory() as cache:
            return evaluate(
                embedder,
                model,
                read_suite(self.data, "dev"),
                Evaluation(batch_size=self.batch_size),
                Path(cache),
                _silent,
            )


def _silent(done: Done) -> None:
    """The loop of training says what it does."""

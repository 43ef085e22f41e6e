"""Scores on the dev split while a training runs: when to stop, and which weights to keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from components.files import atomic_file
from components.training import processes
from components.training.config import EarlyStopping
from components.training.souping import soup


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Returns the weights that learn, and all buffers, by name: what a checkpoint must hold."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


Score = Callable[[], float]
"""Returns the score on the dev split of the model as it now is; higher is better."""


class DevScores:
    """The scores so far by step, and the weights of the best ones, below `folder`."""

    def __init__(self, settings: EarlyStopping, score: Score, folder: Path) -> None:
        self.settings = settings
        self.score = score
        self.folder = folder
        self.scores: dict[int, float] = {}

    @property
    def every(self) -> int:
        return self.settings.every

    @property
    def are_exhausted(self) -> bool:
        """Whether the last `patience` scores are none better than the best before them."""
        scores = list(self.scores.values())
        early, late = scores[: -self.settings.patience], scores[-self.settings.patience :]
        return bool(early) and max(late) <= max(early)

    def add(self, step: int, module: nn.Module) -> float:
        """Returns the score of the module at a step, and keeps its weights if it is among the best."""
        self.scores[step] = self.score()
        if processes.is_first():
            with atomic_file(self._file(step)) as partial:
                torch.save(trained_state(module), partial)
            for other in self.scores.keys() - set(self._best()):
                self._file(other).unlink(missing_ok=True)
        processes.wait_for_all()
        return self.scores[step]

    def restore_best(self, module: nn.Module) -> None:
        """Gives the module the best weights, or the average of the best where that scores higher."""
        if not self.scores:
            return
        best = self._best()
        states = [torch.load(self._file(step), map_location="cpu", weights_only=True) for step in best]

        def score(state: Mapping[str, Tensor]) -> float:
            module.load_state_dict(state, strict=False)
            return self.score()

        mixed, _ = soup(states, [self.scores[step] for step in best], score)
        module.load_state_dict(mixed, strict=False)

    def _best(self) -> list[int]:
        """Returns the steps of the best scores, best first, of equal ones the earlier."""
        return sorted(self.scores, key=lambda step: (-self.scores[step], step))[: self.settings.soup]

    def _file(self, step: int) -> Path:
        return self.folder / f"{step}.pt"

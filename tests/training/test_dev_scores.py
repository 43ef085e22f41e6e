from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from components.training.config import EarlyStopping
from components.training.dev_scores import DevScores


class Model(nn.Module):
    """A weight, and as score how near it is to a goal."""

    steps: Tensor

    def __init__(self, goal: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("steps", torch.tensor(0))
        self.goal = goal

    def score(self) -> float:
        return -abs(self.weight.item() - self.goal)

    def become(self, weight: float) -> None:
        with torch.no_grad():
            self.weight.fill_(weight)
            self.steps += 1


def scored(model: Model, folder: Path, *found: float, soup: int = 1, patience: int = 2) -> DevScores:
    """Returns the scores of a model that was of these weights, one after the other."""
    scores = DevScores(EarlyStopping(every=5, patience=patience, soup=soup), model.score, folder / "best")
    for number, weight in enumerate(found, 1):
        model.become(weight)
        assert scores.add(5 * number, model) == pytest.approx(model.score())
    return scores


def test_the_best_weights_come_back_of_equal_ones_the_first(tmp_path: Path) -> None:
    model = Model()
    scored(model, tmp_path, 3.0, -1.0, 2.0, 1.0).restore_best(model)
    assert model.weight.item() == -1 and model.steps == 2


def test_a_soup_is_taken_where_it_scores_higher(tmp_path: Path) -> None:
    """-1 and 2 have their average nearer to 0.4 than either is."""
    model = Model(goal=0.4)
    scored(model, tmp_path, -1.0, 2.0, 9.0, soup=3).restore_best(model)
    assert model.weight.item() == pytest.approx(0.5) and model.steps in (1, 2)


@pytest.mark.parametrize("weights", [(1.0, 2.0, 3.0), (-4.0, 0.5, 7.0), (2.0, 2.0, 2.0)])
def test_a_soup_never_scores_lower_than_the_best(weights: tuple[float, ...], tmp_path: Path) -> None:
    model = Model()
    scores = scored(model, tmp_path, *weights, soup=3)
    scores.restore_best(model)
    assert model.score() >= max(scores.scores.values())


def test_only_the_best_files_are_kept(tmp_path: Path) -> None:
    scored(Model(), tmp_path, 3.0, -1.0, 2.0, 1.0, 8.0, soup=2)
    assert sorted(file.name for file in (tmp_path / "best").iterdir()) == ["10.pt", "20.pt"]


def test_scores_are_exhausted_when_the_last_ones_are_none_better(tmp_path: Path) -> None:
    rising, flat = (scored(Model(), tmp_path, *weights) for weights in ((4.0, 3.0, 2.0), (3.0, 3.0, 4.0)))
    assert not rising.are_exhausted and flat.are_exhausted
    assert not scored(Model(), tmp_path, 1.0, 2.0).are_exhausted, "nothing came before the last two"
    assert not DevScores(EarlyStopping(every=5, patience=1), lambda: 1.0, tmp_path).are_exhausted


def test_a_model_that_was_never_scored_stays_as_it_is(tmp_path: Path) -> None:
    model = Model()
    model.become(4.0)
    scored(model, tmp_path).restore_best(model)
    assert model.weight.item() == 4

"""How long `init` says that a training takes, with a clock that the test sets."""

import time
from pathlib import Path

import pytest

from components.config import read
from components.expected_time import training_seconds

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("rows", "epochs", "expected"), [(40, 2, 7.5 * 2 + 2.5 * 5), (80, 3, 22.5 * 2 + 7.5 * 5)])
def test_the_shortest_step_but_the_first_counts_for_the_steps_of_its_phase(
    monkeypatch: pytest.MonkeyPatch, rows: int, epochs: int, expected: float
) -> None:
    recipe = read(ROOT / "params.yaml").teacher
    schedule = recipe.schedule.model_copy(update={"steps": None, "epochs": epochs, "batch_size": 8})
    small, large = 0, 1000
    times = iter([small, small + 1, small + 4, small + 6, large, large + 1, large + 6, large + 13])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    assert training_seconds(recipe.model_copy(update={"schedule": schedule}), rows) == pytest.approx(expected)

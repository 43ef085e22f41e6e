from collections import Counter

import pytest

from components.training.sampler import draw

ROWS = {"a": 50, "b": 5, "c": 1000}


def test_a_draw_depends_on_the_seed_and_the_step_alone() -> None:
    first = [draw(ROWS, {"a": 2.0}, 32, 4, seed=1, step=step) for step in range(20)]
    assert [draw(ROWS, {"a": 2.0}, 32, 4, seed=1, step=step) for step in reversed(range(20))] == first[::-1]
    assert draw(ROWS, {"a": 2.0}, 32, 4, seed=2, step=0) != first[0] != first[1]


def test_no_row_comes_twice_and_no_batch_is_too_large() -> None:
    for step in range(200):
        drawn = draw(ROWS, {}, 64, 4, seed=0, step=step)
        assert sum(map(len, drawn.values())) <= 64
        for task, numbers in drawn.items():
            assert len(set(numbers)) == len(numbers) > 0 and set(numbers) <= set(range(ROWS[task]))


def test_a_task_of_weight_zero_is_never_drawn_and_the_others_by_their_weights() -> None:
    counts = Counter(task for step in range(2000) for task in draw(ROWS, {"b": 0, "c": 3}, 8, 1, seed=0, step=step))
    assert counts["b"] == 0
    assert counts["c"] / counts.total() == pytest.approx(0.75, abs=0.05)
    assert {task for step in range(50) for task in draw(ROWS, {}, 8, 1, seed=0, step=step)} == set(ROWS)


def test_every_row_of_a_task_is_drawn_in_the_end() -> None:
    seen = {number for step in range(100) for number in draw({"a": 50}, {}, 8, 1, seed=0, step=step)["a"]}
    assert seen == set(range(50))

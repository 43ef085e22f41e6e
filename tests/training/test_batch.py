from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from components.training.batch import BatchBuilder, equal_rows
from components.training.config import Schedule
from components.training.examples import IMAGE, NONE, TEXT, Examples
from components.training.negatives import HardNegatives

from .conftest import of_tasks

MakeSchedule = Callable[..., Schedule]


def test_a_batch_depends_on_the_seed_and_the_step_alone(make_schedule: MakeSchedule, examples: Examples) -> None:
    draw = BatchBuilder(examples, make_schedule())
    first, later = draw(4), draw(5)
    again, other = BatchBuilder(examples, make_schedule())(4), BatchBuilder(examples, make_schedule(seed=4))(4)
    assert torch.equal(first.queries, again.queries) and torch.equal(first.positives, again.positives)
    assert first.queries.tolist() not in (other.queries.tolist(), later.queries.tolist())


def test_the_rows_of_a_task_stand_together_each_once_and_the_shares_sum_to_one(
    make_schedule: MakeSchedule, examples: Examples
) -> None:
    draw = BatchBuilder(examples, make_schedule(steps=30))
    for step in range(30):
        batch = draw(step)
        assert [span.rows.start for span in batch.tasks] == [0, *(span.rows.stop for span in batch.tasks[:-1])]
        assert batch.tasks[-1].rows.stop == len(batch.queries) == len(batch.positives)
        assert sum(span.fraction for span in batch.tasks) == pytest.approx(1)
        for span in batch.tasks:
            rows = torch.cat([batch.queries[span.rows], batch.positives[span.rows]], 1).tolist()
            task = task_of(batch.queries[span.rows.start], examples)
            known = np.concatenate([examples.queries[task], examples.positives[task]], 1).tolist()
            assert all(row in known for row in rows)
            assert len({tuple(row) for row in rows}) == len(rows) > 1


def test_what_is_known_of_a_drawn_image_joins_the_batch(make_schedule: MakeSchedule, examples: Examples) -> None:
    """Images cost time, texts do not: the name of every drawn image is in the batch, and no image is added."""
    weights = {"Shown": 1e-9, "LeftOf": 1e-9}
    batch = BatchBuilder(examples, make_schedule(task_weights=weights, sub_batches=1))(0)
    names, shown = (
        batch.queries[span.rows] if index == 0 else batch.positives[span.rows]
        for index, span in enumerate(batch.tasks[:2])
    )
    assert [task_of(batch.queries[span.rows.start], examples) for span in batch.tasks] == ["Name", "Shown"]
    assert names[:, TEXT].tolist() == shown[:, TEXT].tolist() and len(names) > 1
    alone = BatchBuilder(examples, make_schedule(task_weights=weights, sub_batches=1, companions=False))(0)
    assert [task_of(alone.queries[span.rows.start], examples) for span in alone.tasks] == ["Name"]
    assert {*alone.positives[:, IMAGE].tolist()} == {*batch.items[:, IMAGE].tolist()} - {NONE}


def test_a_task_of_weight_zero_never_joins_a_batch(make_schedule: MakeSchedule, examples: Examples) -> None:
    def tasks(**weights: float) -> set[str]:
        draw = BatchBuilder(examples, make_schedule(task_weights=weights, steps=30))
        return {
            task_of(batch.queries[span.rows.start], examples) for batch in map(draw, range(30)) for span in batch.tasks
        }

    assert tasks() == {"Name", "Shown", "LeftOf"}
    assert tasks(Shown=0) == {"Name", "LeftOf"} and tasks(Name=0, LeftOf=0) == {"Shown"}


def test_without_companions_a_weight_acts_once_and_with_them_on_each_task_that_is_present(
    make_schedule: MakeSchedule, examples: Examples
) -> None:
    weights = {"Name": 6.0, "Shown": 2.0, "LeftOf": 1.0}

    def mean_shares(companions: bool) -> dict[str, float]:
        schedule = make_schedule(task_weights=weights, companions=companions, steps=3000, sub_batches=2)
        draw, total = BatchBuilder(examples, schedule), dict.fromkeys(weights, 0.0)
        for step in range(3000):
            batch = draw(step)
            for span in batch.tasks:
                total[task_of(batch.queries[span.rows.start], examples)] += span.fraction / 3000
        return total

    expected = {task: weight / 9 for task, weight in weights.items()}
    assert mean_shares(companions=False) == pytest.approx(expected, abs=0.03)
    present = mean_shares(companions=True)  # names and what is shown are in every batch, LeftOf where it is drawn
    assert present["Name"] / present["Shown"] == pytest.approx(3, rel=0.01) and present["LeftOf"] < 0.05


@pytest.mark.parametrize("companions", [True, False])
def test_a_task_with_a_single_row_can_be_drawn(
    companions: bool, make_schedule: MakeSchedule, examples: Examples
) -> None:
    single = Examples(
        examples.texts,
        examples.images,
        {"Name": examples.queries["Name"][:1]},
        {"Name": examples.positives["Name"][:1]},
    )
    batch = BatchBuilder(single, make_schedule(companions=companions))(0)
    assert batch.queries.tolist() == single.queries["Name"].tolist() and batch.tasks[0].fraction == 1


def test_hard_negatives_and_their_scores_stand_beside_their_rows(
    make_schedule: MakeSchedule, examples: Examples
) -> None:
    """They go with the rows through the list of all items and back."""
    negatives = {
        task: HardNegatives(
            np.stack([np.roll(rows, shift, 0) for shift in (1, 2)], 1),
            np.random.default_rng(number).random((10, 3), np.float32),
        )
        for number, (task, rows) in enumerate(examples.positives.items())
    }
    batch = BatchBuilder(examples, make_schedule(), negatives)(2)
    assert batch.negatives is not None and batch.negatives.shape == (len(batch.queries), 2, 3)
    assert batch.scores is not None
    for span in batch.tasks:
        task = task_of(batch.queries[span.rows.start], examples)
        mined, queries = negatives[task], examples.queries[task].tolist()
        assert mined.scores is not None
        for row in range(span.rows.start, span.rows.stop):
            known = queries.index(batch.queries[row].tolist())
            assert batch.negatives[row].tolist() == mined.positions[known].tolist()
            assert batch.scores[row].tolist() == mined.scores[known].tolist()
    sides = batch.split(batch.items)
    parts = (batch.queries, batch.positives, batch.negatives)
    assert all(side is not None and torch.equal(side, part) for side, part in zip(sides, parts, strict=True))
    without = BatchBuilder(examples, make_schedule())(2)
    assert without.negatives is None and without.scores is None and torch.equal(without.queries, batch.queries)


def test_rows_with_the_same_query_or_the_same_positive_are_equal(
    make_schedule: MakeSchedule, examples: Examples
) -> None:
    positions = torch.tensor([[0, NONE, 1], [0, NONE, 1], [0, NONE, NONE], [0, 1, 1]])
    assert equal_rows(positions).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    names = of_tasks(examples, "Name")
    names.queries["Name"] = names.queries["Name"].copy()
    names.positives["Name"] = names.positives["Name"].copy()
    names.queries["Name"][1] = names.queries["Name"][0]  # one name of two images
    names.positives["Name"][3] = names.positives["Name"][2]  # two names of one image
    batch = BatchBuilder(names, make_schedule(batch_size=20, task_weights={}))(0)
    expected = torch.eye(10, dtype=torch.bool)
    expected[[0, 1, 2, 3], [1, 0, 3, 2]] = True
    assert torch.equal(batch.equal(batch.tasks[0].rows), expected)


def task_of(query: Tensor, examples: Examples) -> str:
    return next(task for task, rows in examples.queries.items() if query.tolist() in rows.tolist())

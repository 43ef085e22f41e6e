import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from components.errors import UsageError
from components.training.config import Schedule
from components.training.examples import NONE, Examples, modalities
from components.training.sampler import Epochs, Sampler, deal, planned

ROWS = {"a": 50, "b": 5, "c": 1000}


def schedule(**changes: Any) -> Schedule:
    fields: dict[str, Any] = {
        "steps": 200,
        "batch_size": 32,
        "sub_batches": 4,
        "task_weights": {},
        "augmentation": 0.0,
        "no_flip_tasks": [],
        "learning_rate": 0.01,
        "weight_decay": 0.0,
        "warmup_fraction": 0.0,
        "precision": "float32",
        "checkpoint_every": 1,
        "log_every": 1,
        "seed": 1,
    }
    return Schedule(**(fields | changes))


def parts(text: Any = NONE, image: Any = NONE) -> np.ndarray:
    return np.stack(np.broadcast_arrays(text, image, np.int32(NONE)), -1).astype(np.int32).reshape(-1, 3)


def examples_of(rows: dict[str, int]) -> Examples:
    """Texts to images, all of them different."""
    numbers = {task: np.arange(count) for task, count in rows.items()}
    queries = {task: parts(text=number) for task, number in numbers.items()}
    return Examples([], [], queries, {task: parts(image=number) for task, number in numbers.items()})


def labelled(rows: int, labels: int) -> Examples:
    """Images, three rows of each, of a few labels of which some are frequent."""
    images = np.repeat(np.arange(rows // 3 + 1), 3)[:rows]
    chosen = (np.random.default_rng(0).random(rows) ** 2 * labels).astype(np.int32)
    return Examples([], [], {"a": parts(image=images)}, {"a": parts(text=chosen)})


def all_steps(sampler: Sampler) -> list[dict[str, list[int]]]:
    return [sampler(step) for step in range(sampler.steps)]


def epochs(visits: Iterator[Sequence[int]], rows: int) -> Iterator[list[Sequence[int]]]:
    """Yields the visits that make an epoch: each row once, and no visit across its end."""
    epoch: list[Sequence[int]] = []
    for visit in visits:
        epoch.append(visit)
        together = [row for part in epoch for row in part]
        assert len(set(together)) == len(together) <= rows
        if len(together) == rows:
            yield epoch
            epoch = []


@pytest.mark.parametrize("distinct", ["none", "both"])
def test_a_step_depends_on_the_seed_and_its_number_alone(distinct: str) -> None:
    def draw(**changes: Any) -> Sampler:
        return Sampler(examples_of(ROWS), schedule(task_weights={"a": 2.0}, distinct=distinct, **changes))

    whole_run = all_steps(draw())
    sampler = draw()
    assert [sampler(step) for step in reversed(range(200))] == whole_run[::-1]
    assert [draw()(step) for step in range(0, 200, 7)] == whole_run[::7], "a run resumed at any step"
    assert pickle.loads(pickle.dumps(sampler))(123) == whole_run[123]
    assert draw(seed=2)(0) != whole_run[0] != whole_run[1]
    assert all_steps(draw(seed=-1)) != whole_run


def test_another_task_does_not_change_the_order_of_the_rows_of_a_task() -> None:
    def order(rows: dict[str, int]) -> list[int]:
        sampler = Sampler(examples_of(rows), schedule(sub_batches=1, batch_size=4))
        return [step["a"] for step in all_steps(sampler) if "a" in step][:5]

    assert order(ROWS) == order({"a": 50, "d": 7})


def test_no_row_comes_twice_and_no_batch_is_too_large() -> None:
    for drawn in all_steps(Sampler(examples_of(ROWS), schedule(batch_size=64, seed=0))):
        assert sum(map(len, drawn.values())) <= 64
        for task, rows in drawn.items():
            assert len(set(rows)) == len(rows) > 0 and set(rows) <= set(range(ROWS[task]))


@pytest.mark.parametrize("distinct", ["none", "query", "positive", "both"])
def test_every_row_comes_once_an_epoch_and_the_order_changes(distinct: str) -> None:
    sampler = Sampler(labelled(100, 10), schedule(sub_batches=2, batch_size=16, distinct=distinct))
    found = list(epochs((step["a"] for step in all_steps(sampler)), 100))
    assert len(found) > 2
    assert len({str(epoch) for epoch in found}) == len(found)


def test_drawing_with_replacement_would_not_pass_for_epochs() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(AssertionError):
        list(epochs((random.choice(100, 16, replace=False).tolist() for _ in range(50)), 100))


def test_the_sub_batches_of_an_epoch_are_about_equally_large() -> None:
    """65 rows of which 16 fit are five times 13, not four times 16 and a row that has no negatives."""
    sampler = Sampler(examples_of({"a": 65}), schedule(sub_batches=1, batch_size=16))
    assert {len(step["a"]) for step in all_steps(sampler)} == {13}


def test_rows_are_dealt_in_turn_within_the_capacities() -> None:
    dealt = Counter(deal(np.array([4, 8, 4]), 12).tolist())
    assert dealt == {0: 3, 1: 6, 2: 3}
    assert Counter(deal(np.array([4, 16]), 2).tolist()) == {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("distinct", "sides"), [("query", ["queries"]), ("positive", ["positives"]), ("both", ["queries", "positives"])]
)
def test_no_two_rows_of_a_sub_batch_share_what_must_be_distinct(distinct: str, sides: list[str]) -> None:
    examples = labelled(300, 40)

    def shared(sampler: Sampler) -> int:
        kept = [getattr(examples, side)["a"][step["a"]].tolist() for step in all_steps(sampler) for side in sides]
        return sum(len(rows) - len(set(map(tuple, rows))) for rows in kept)

    assert shared(Sampler(examples, schedule(distinct=distinct))) == 0
    assert shared(Sampler(examples, schedule(distinct="none"))) > 100, "or there would be nothing to see"


def test_rows_that_all_share_a_positive_come_one_a_step() -> None:
    examples = Examples([], [], {"a": parts(image=np.arange(30))}, {"a": parts(text=np.zeros(30, int))})
    sampler = Sampler(examples, schedule(distinct="both"))
    assert sorted(row for step in range(30) for row in sampler(step)["a"]) == list(range(30))
    assert all(len(step["a"]) == 1 for step in all_steps(sampler))


def test_few_labels_make_as_few_sub_batches_as_they_can() -> None:
    """The most frequent label needs a step for each of its rows; the others are spread over these steps."""
    labels = np.repeat(np.arange(10), [40, *[20] * 9])
    rows = Epochs(220, [labels], np.full(100, 16), 16, [0])
    assert rows.first_length == 40
    assert {len(rows.rows(visit)) for visit in range(40)} == {5, 6}


def test_tasks_are_drawn_by_their_weights() -> None:
    def counts(weights: dict[str, float]) -> Counter[str]:
        sampler = Sampler(
            examples_of(ROWS), schedule(steps=4000, batch_size=2, sub_batches=1, task_weights=weights, seed=0)
        )
        return Counter(task for step in all_steps(sampler) for task in step)

    drawn = counts({"b": 0.5, "c": 3})
    observed, expected = [drawn[task] for task in "abc"], [4000 / 4.5 * weight for weight in (1, 0.5, 3)]
    assert chisquare(observed, expected).pvalue > 0.001
    assert chisquare(observed, [4000 / 3] * 3).pvalue < 1e-9, "the test can tell other weights"
    assert counts({"b": 0}).keys() == {"a", "c"}


def test_kinds_of_pairs_are_balanced_and_weights_count_within_a_kind() -> None:
    text, image, both = parts(text=np.arange(20)), parts(image=np.arange(20)), parts(np.arange(20), np.arange(20))
    queries = {"name": text, "keyword": text, "translation": text, "shown": image, "composed": both}
    positives = {"name": image, "keyword": image, "translation": image, "shown": text, "composed": image}
    examples = Examples([], [], queries, positives)

    def counts(balance: str) -> list[int]:
        changes = {"steps": 3000, "batch_size": 2, "sub_batches": 1, "task_weights": {"name": 2}, "balance": balance}
        drawn = Counter(task for step in all_steps(Sampler(examples, schedule(**changes))) for task in step)
        return [drawn[task] for task in queries]

    assert chisquare(counts("modalities"), [500, 250, 250, 1000, 1000]).pvalue > 0.001
    assert chisquare(counts("weights"), [1000, 500, 500, 500, 500]).pvalue > 0.001
    assert modalities(np.concatenate([text[:1], image[:1], both[:1]])).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("stop", "rows", "steps"),
    [
        ("steps", {"a": 50}, 200),
        ("first_exhausted", {"a": 50}, 7),
        ("all_exhausted", {"a": 50}, 7),
        ("first_exhausted", {"a": 10_000}, 200),
        ("all_exhausted", {"a": 8, "b": 10_000}, 200),
    ],
)
def test_the_stopping_rule_ends_the_training_but_never_after_its_steps(
    stop: str, rows: dict[str, int], steps: int
) -> None:
    assert Sampler(examples_of(rows), schedule(batch_size=8, sub_batches=1, stop=stop)).steps == steps


@pytest.mark.parametrize("distinct", ["none", "both"])
def test_the_last_step_is_the_one_that_exhausts_the_first_or_the_last_task(distinct: str) -> None:
    counts = {"a": 150, "b": 90, "c": 1000}

    def seen(stop: str) -> tuple[set[str], set[str]]:
        """Returns which tasks have shown all their rows, before the last step and after it."""
        sampler = Sampler(examples_of(counts), schedule(batch_size=64, stop=stop, distinct=distinct))
        rows = {task: set(range(count)) for task, count in counts.items()}
        exhausted: list[set[str]] = [set()]
        for step in all_steps(sampler):
            for task, drawn in step.items():
                rows[task] -= set(drawn)
            exhausted.append({task for task in rows if not rows[task]})
        assert 1 < sampler.steps < 200
        return exhausted[-2], exhausted[-1]

    before, after = seen("first_exhausted")
    assert not before and after
    before, after = seen("all_exhausted")
    assert before < set(counts) == after


def test_there_is_no_step_beyond_the_last() -> None:
    sampler = Sampler(examples_of(ROWS), schedule(steps=3))
    for step in (3, -1):
        with pytest.raises(IndexError):
            sampler(step)


def test_a_data_set_of_no_weight_is_refused() -> None:
    with pytest.raises(UsageError, match="no task of the data set has a weight above 0"):
        Sampler(examples_of({"a": 5}), schedule(task_weights={"a": 0}))


@pytest.mark.parametrize("name", ["task_weights", "no_flip_tasks"])
def test_an_unknown_task_is_refused_beside_the_nearest_ones(name: str) -> None:
    examples = examples_of({"NameToImage": 5, "ImageToName": 5})
    wrong = {"task_weights": {"NameToImages": 1.0}, "no_flip_tasks": ["NameToImages"]}[name]
    with pytest.raises(UsageError, match=f"schedule.{name}: NameToImages: the data set has no such") as refused:
        planned(examples, schedule(**{name: wrong}))
    assert "NameToImage" in refused.value.remedy
    with pytest.raises(UsageError, match="Zzz") as refused:
        planned(examples, schedule(task_weights={"Zzz": 0.0}))
    assert "NameToImage, ImageToName" in refused.value.remedy
    with pytest.raises(UsageError, match="NameToImages"):
        Sampler(examples, planned(examples, schedule()).model_copy(update={"task_weights": {"NameToImages": 1.0}}))


def test_epochs_become_steps_that_draw_every_row_as_often() -> None:
    examples = examples_of({"a": 320, "b": 320, "unused": 1000})
    changes = {"steps": None, "epochs": 3, "batch_size": 64, "sub_batches": 2, "task_weights": {"unused": 0}}
    plan = planned(examples, schedule(**changes))
    assert plan.steps == 3 * 640 / 64
    drawn = Counter(task for step in all_steps(Sampler(examples, plan)) for task, rows in step.items() for _ in rows)
    assert drawn.keys() == {"a", "b"} and sum(drawn.values()) == pytest.approx(3 * 640, rel=0.05)
    assert planned(examples, schedule(**changes | {"epochs": 1, "batch_size": 4096})).steps == 1


def test_steps_stay_and_a_batch_is_no_larger_than_the_data() -> None:
    plan = planned(examples_of({"a": 12, "b": 8}), schedule(steps=7, batch_size=256, sub_batches=2))
    assert (plan.steps, plan.batch_size) == (7, 20)
    assert planned(examples_of({"a": 12, "b": 8}), schedule(batch_size=16)).batch_size == 16
    assert planned(examples_of({"a": 1}), schedule(batch_size=16, sub_batches=2)).batch_size == 4

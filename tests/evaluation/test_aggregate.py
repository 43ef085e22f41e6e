import numpy as np
import pytest

from components.errors import EmbedlineError
from components.evaluation import aggregates, overall_interval, read_benchmark, require_complete
from tests.evaluation.conftest import task

TASKS = {
    "A": task("classification", "IND"),
    "B": task("classification", "OOD"),
    "C": task("retrieval", "OOD"),
}


def test_overall_is_the_mean_over_sets_and_not_over_meta_tasks() -> None:
    assert aggregates({"A": 0.2, "B": 0.4, "C": 0.9}, TASKS) == pytest.approx(
        {"overall": 0.5, "IND": 0.2, "OOD": 0.65, "classification": 0.3, "retrieval": 0.9}
    )


@pytest.mark.parametrize(("missing", "gone"), [("C", {"retrieval", "OOD"}), ("A", {"IND", "classification"})])
def test_a_group_of_which_a_set_is_missing_has_no_mean(missing: str, gone: set[str]) -> None:
    scores = {"A": 0.2, "B": 0.4, "C": 0.9}
    everything = aggregates(scores, TASKS)
    del scores[missing]
    left = aggregates(scores, TASKS)
    assert set(everything) - set(left) == gone | {"overall"}
    assert left.items() <= everything.items()


def test_a_score_of_no_set_is_an_error() -> None:
    with pytest.raises(EmbedlineError, match="no overall score: D: is no evaluation set"):
        aggregates({"A": 0.2, "B": 0.4, "C": 0.9, "D": 1.0}, TASKS)


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (["A", "B"], "C: is missing"),
        (["A"], "B: is missing; C: is missing"),
        (["A", "B", "C", "D"], "D: is no evaluation set"),
    ],
)
def test_what_is_missing_or_extra_is_named(found: list[str], named: str) -> None:
    require_complete(list(TASKS), TASKS)
    with pytest.raises(EmbedlineError, match=f"no overall score: {named}"):
        require_complete(found, TASKS)


def test_a_data_set_without_evaluation_sets_is_an_error() -> None:
    with pytest.raises(EmbedlineError, match="names no evaluation set"):
        require_complete([], {})


def test_v2_has_a_mean_of_each_modality_and_all_78_count_alike() -> None:
    tasks = read_benchmark("mmeb-v2").tasks
    scores = {name: float(task.modality == "visdoc") for name, task in tasks.items()}
    means = aggregates(scores, tasks)
    assert (means["image"], means["video"], means["visdoc"]) == (0, 0, 1)
    assert means["overall"] == pytest.approx(24 / 78), "not the mean of three modalities"


def test_of_many_queries_the_interval_is_that_of_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(1)
    hits = {"A": generator.choice([0, 0.5, 1], 3000), "B": generator.choice([0.0, 1], 500, p=[0.9, 0.1])}
    plain = [np.mean([generator.choice(values, len(values)).mean() for values in hits.values()]) for _ in range(4000)]
    assert overall_interval(hits) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.0015)
    assert overall_interval(hits) == overall_interval(dict(reversed(hits.items())))


def test_a_few_hits_do_not_make_a_perfect_score_certain() -> None:
    low, high = overall_interval({"A": np.ones(9), "B": np.ones(9)})
    assert 0.7 < low < 0.9 and high == 1

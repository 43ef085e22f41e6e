import numpy as np
import pytest

from components.corpus import EvaluationTask
from components.errors import EmbedlineError
from components.evaluation import aggregates, overall_interval

TASKS = {
    "A": EvaluationTask(rows=10, candidates=5, meta_task="classification", distribution="IND"),
    "B": EvaluationTask(rows=10, candidates=5, meta_task="classification", distribution="OOD"),
    "C": EvaluationTask(rows=10, candidates=5, meta_task="retrieval", distribution="OOD"),
}


def test_overall_is_the_mean_over_sets_and_not_over_meta_tasks() -> None:
    assert aggregates({"A": 0.2, "B": 0.4, "C": 0.9}, TASKS) == pytest.approx(
        {"overall": 0.5, "IND": 0.2, "OOD": 0.65, "classification": 0.3, "retrieval": 0.9}
    )


@pytest.mark.parametrize(
    ("scores", "named"),
    [
        ({"A": 0.2, "B": 0.4}, "C: is missing"),
        ({"A": 0.2}, "B: is missing; C: is missing"),
        ({"A": 0.2, "B": 0.4, "C": 0.9, "D": 1.0}, "D: is no evaluation set"),
    ],
)
def test_without_the_complete_list_there_is_no_mean(scores: dict[str, float], named: str) -> None:
    with pytest.raises(EmbedlineError, match=f"no overall score: {named}"):
        aggregates(scores, TASKS)


def test_a_data_set_without_evaluation_sets_has_no_mean() -> None:
    with pytest.raises(EmbedlineError, match="names no evaluation set"):
        aggregates({}, {})


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(1)
    hits = {"A": generator.choice([0, 0.5, 1], 300), "B": generator.choice([0.0, 1], 50, p=[0.9, 0.1])}
    plain = [np.mean([generator.choice(values, len(values)).mean() for values in hits.values()]) for _ in range(4000)]
    assert overall_interval(hits, 20_000) == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.004)
    assert overall_interval(hits, 500) == overall_interval(dict(reversed(hits.items())), 500)
    assert overall_interval({"A": np.ones(9)}, 100) == (1, 1)

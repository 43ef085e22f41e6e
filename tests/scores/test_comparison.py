import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from components.errors import UsageError
from components.scores import Scores
from components.scores.comparison import compare, flipped_means, holm, mcnemar
from tests.scores.made_up import of_values, with_task, without_task

Values = NDArray[np.float64]
SHOWN = ("better", "worse")


def answers(generator: np.random.Generator, shares: dict[str, float], queries: int = 400) -> tuple[Any, Any]:
    """Two models of equal skill that share half of their luck; then the first one answers `shares` more of a set."""
    ours, theirs = {}, {}
    for name, share in shares.items():
        hard = generator.random(queries)
        ours[name] = (hard + generator.normal(0, 0.2, queries) < 0.5 + share).astype(float)
        theirs[name] = (hard + generator.normal(0, 0.2, queries) < 0.5).astype(float)
    return ours, theirs


def test_holm_is_the_step_down_procedure() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 7, 36):
        p_values = generator.random(count).round(1) * generator.choice([0.01, 1], count)
        for level in (0.01, 0.05, 0.2):
            rejected = np.zeros(count, bool)
            for rank, index in enumerate(np.argsort(p_values, kind="stable")):
                if p_values[index] > level / (count - rank):
                    break
                rejected[index] = True
            assert ((holm(p_values) <= level * (1 + 1e-12)) == rejected).all()
    assert holm(np.array([0.04, 0.01, 0.03, 0.005])) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])) == pytest.approx([1, 1])


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (5, 0), (7, 7), (10, 25), (130, 171), (0, 2000)])
def test_mcnemar_is_the_exact_binomial_test_of_the_queries_that_differ(won: int, lost: int) -> None:
    ours = np.array([1.0] * won + [0.0] * lost + [0.0, 1.0, 1.0])
    theirs = np.array([0.0] * won + [1.0] * lost + [0.0, 1.0, 1.0])
    tail = sum(math.comb(won + lost, count) for count in range(min(won, lost) + 1))
    found = mcnemar(ours, theirs)
    assert found == pytest.approx(min(1, 2 * tail / 2 ** (won + lost)), rel=1e-9)
    assert found == pytest.approx(stats.binomtest(won, won + lost).pvalue if won + lost else 1, rel=1e-9)
    assert mcnemar(theirs, ours) == found


def test_mcnemar_is_for_hits_and_misses_only() -> None:
    assert mcnemar(np.array([1.0, 0.5]), np.array([1.0, 0.0])) is None
    found = compare(of_values({"A": [0.5, 1], "B": [1, 0]}), of_values({"A": [1, 1], "B": [0, 0]}), 100, 0.95)
    (a, b), overall = found.tasks, found.overall
    assert overall.mcnemar is None and a.mcnemar_holm is None and a.mcnemar is None
    assert b.mcnemar == b.mcnemar_holm == 1, "adjusted for the sets that have one"


def test_of_many_queries_the_interval_is_that_of_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(1)
    ours, theirs = generator.choice([0, 0.5, 1], 4000, p=[0.4, 0.1, 0.5]), generator.choice([0, 0.5, 1], 4000)
    found = compare(of_values({"A": ours}), of_values({"A": theirs}), 100, 0.95)
    plain = stats.bootstrap((ours - theirs,), np.mean, n_resamples=4000, method="percentile", rng=generator, batch=500)
    for each in (found.overall, *found.tasks):
        assert [each.lower, each.upper] == pytest.approx(list(plain.confidence_interval), abs=0.0015)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (0, 3), (2, 6), (9, 2), (30, 50)])
def test_that_ours_is_worse_is_tested_exactly_however_few_queries_differ(won: int, lost: int) -> None:
    rest = [0.0] * (100 - won - lost)
    ours, theirs = [1.0] * won + [0.0] * lost + rest, [0.0] * won + [1.0] * lost + rest
    found = compare(of_values({"A": ours}), of_values({"A": theirs}), 20_000, 0.95)
    exact = stats.binomtest(won, won + lost, alternative="less").pvalue if won + lost else 1
    for each in (found.overall, *found.tasks):
        assert each.p_worse == pytest.approx(exact, abs=0.01)


def test_a_few_queries_that_are_alike_do_not_prove_that_all_are() -> None:
    few = compare(of_values({"A": [1.0] * 30}), of_values({"A": [1.0] * 30}), 100, 0.95).overall
    assert few.difference == 0 and few.lower == -few.upper == pytest.approx(math.log(0.025) / 30)


def test_random_signs_give_what_all_signs_give() -> None:
    values = np.array([0.3, -0.2, 0.5, 0.1, 0.0, 0.5, -0.1, 0.25, 0.4, 0.3])
    every = np.array([np.mean(signs * values) for signs in itertools.product((-1, 1), repeat=len(values))])
    drawn = flipped_means(values, 50_000, np.random.default_rng(0))
    for threshold in (-0.2, -0.1, 0.05, values.mean()):
        assert (drawn >= threshold - 1e-9).mean() == pytest.approx((every >= threshold - 1e-9).mean(), abs=0.006)


def test_drawing_in_blocks_draws_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)

    def drawn() -> Values:
        return flipped_means(values, 100, np.random.default_rng(0))

    at_once = drawn()
    monkeypatch.setattr("components.scores.comparison.CELLS_PER_BLOCK", 130)
    assert at_once.shape == (100,) and drawn() == pytest.approx(at_once, abs=1e-12)


def test_on_hits_the_random_signs_agree_with_mcnemar() -> None:
    generator = np.random.default_rng(3)
    for share in (0.0, 0.03, 0.06):
        ours, theirs = answers(generator, {"A": share})
        found = compare(of_values(ours), of_values(theirs), 20_000, 0.95).tasks[0]
        assert found.mcnemar is not None
        assert found.p_different == pytest.approx(found.mcnemar, abs=0.012)


def test_the_interval_holds_the_true_difference_as_often_as_it_says() -> None:
    """Two sets of different sizes; the first model has 0.1 more hits in truth, less so or more in each sample."""
    generator = np.random.default_rng(4)
    inside = 0
    for _ in range(400):
        theirs = {name: generator.choice([0.0, 1.0], size) for name, size in (("A", 80), ("B", 160))}
        ours = {name: generator.choice([0.0, 1.0], len(hits), p=[0.4, 0.6]) for name, hits in theirs.items()}
        overall = compare(of_values(ours), of_values(theirs), 100, 0.9).overall
        inside += overall.lower <= 0.1 <= overall.upper
    assert 0.86 <= inside / 400 <= 0.94


def test_a_planted_difference_is_found_and_only_where_it_is() -> None:
    ours, theirs = answers(np.random.default_rng(5), {name: 0.0 for name in "ABCDEF"} | {"C": 0.15})
    found = compare(of_values(ours), of_values(theirs), 2000, 0.95)
    assert {task.name for task in found.tasks if task.verdict in SHOWN} == {"C"}
    planted = found.tasks[2]
    assert planted.verdict == "better" and planted.lower > 0.08 and planted.p_worse_holm > 0.99
    mirrored = compare(of_values(theirs), of_values(ours), 2000, 0.95)
    assert mirrored.tasks[2].verdict == "worse" and mirrored.tasks[2].p_worse_holm < 0.01
    assert mirrored.overall.difference == -found.overall.difference


def test_equal_models_are_not_called_different() -> None:
    """Nearly identical models on many sets: a handful of queries differ, and the others say nothing."""
    generator = np.random.default_rng(6)
    overall = families = 0
    for _ in range(100):
        ours, theirs = {}, {}
        for name in map(str, range(20)):
            ours[name] = generator.random(300).round(3)
            differ = generator.choice(300, generator.poisson(8), replace=False)
            theirs[name] = ours[name].copy()
            theirs[name][differ] = generator.random(len(differ)).round(3)
        found = compare(of_values(ours), of_values(theirs), 800, 0.95)
        overall += found.overall.verdict in SHOWN
        families += any(task.verdict in SHOWN for task in found.tasks)
    assert overall <= 10 and families <= 10
    same = compare(of_values(ours), of_values(ours), 800, 0.95)
    assert {(task.p_worse, task.p_different, task.difference) for task in same.tasks} == {(1, 1, 0)}
    assert all(task.lower == -task.upper < 0 for task in same.tasks)


def test_pairing_matters() -> None:
    generator = np.random.default_rng(7)
    ours, theirs = answers(generator, {"A": 0.05, "B": 0.05})
    paired = compare(of_values(ours), of_values(theirs), 1000, 0.95).overall
    shuffled = {name: generator.permutation(values) for name, values in theirs.items()}
    apart = compare(of_values(ours), of_values(shuffled), 1000, 0.95).overall
    assert apart.difference == pytest.approx(paired.difference)
    assert apart.upper - apart.lower > 1.3 * (paired.upper - paired.lower) and apart.p_different > paired.p_different


def test_the_order_of_sets_and_of_queries_changes_nothing() -> None:
    generator = np.random.default_rng(8)
    ours, theirs = answers(generator, {"A": 0.02, "B": 0.0, "C": 0.1})
    order = generator.permutation(400)
    turned = [{name: values[name][order] for name in reversed(values)} for values in (ours, theirs)]
    assert compare(of_values(turned[0]), of_values(turned[1]), 500, 0.95) == compare(
        of_values(ours), of_values(theirs), 500, 0.95
    )


def test_overall_is_the_mean_of_the_sets_whatever_their_sizes() -> None:
    ours, theirs = {"A": [1.0] * 10, "B": [0.0] * 1000}, {"A": [0.0] * 10, "B": [0.0] * 1000}
    found = compare(of_values(ours), of_values(theirs), 100, 0.95)
    assert (found.overall.ours, found.overall.theirs, found.overall.difference) == (0.5, 0, 0.5)
    assert found.overall.queries == 1010 and 0 < found.overall.lower < 0.5 < found.overall.upper


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda s: replace(s, dataset_digest="other"), "the data set differs: other and data"),
        (lambda s: replace(s, scorer="1"), "the scorer differs: 1 and 2"),
        (lambda s: replace(s, prompts="other"), "the prompts differ: other and prompts"),
        (lambda s: replace(s, prompts=""), "prompts: String should have at least 1 character"),
        (lambda s: without_task(s, "A"), "A: was scored for one of the models only"),
        (lambda s: replace(s, tasks=s.tasks | {"C": s.tasks["A"]}), "C: was scored for one of the models only"),
        (lambda s: with_task(s, "A", metric="ndcg_linear@5"), "A: metric differ: ndcg_linear@5 and hit@1"),
        (lambda s: with_task(s, "A", candidates=9), "A: candidates differ: 9 and 10"),
        (lambda s: with_task(s, "A", queries=3, score=1.0, values=[1.0, 1.0, 1.0]), "A: queries differ: 3 and 4"),
        (lambda s: with_task(s, "A", values=[1.0, 0.0, 1.0]), "A: 3 values for 4 queries"),
        (lambda s: with_task(s, "A", values=[]), "A: 0 values for 4 queries"),
        (lambda s: with_task(s, "A", values=[math.nan, 0.0, 1.0, 1.0]), "A.values.0: Input should be a finite number"),
        (lambda s: with_task(s, "A", values=[7.0, 0.0, 1.0, 1.0]), "A.values.0: Input should be less than or equal to"),
        (
            lambda s: with_task(s, "A", values=[-0.1, 0.0, 1.0, 1.0]),
            "A.values.0: Input should be greater than or equal",
        ),
    ],
)
def test_scores_that_do_not_compare_are_refused(spoil: Callable[[Scores], Scores], reason: str) -> None:
    values = {"A": [1.0, 0.0, 1.0, 1.0], "B": [0.0, 1.0]}
    ours, theirs = of_values(values), of_values(values)
    compare(ours, theirs, 100, 0.95)
    ours = spoil(ours)
    with pytest.raises(UsageError, match=reason):
        compare(ours, theirs, 100, 0.95)
    with pytest.raises(UsageError):
        compare(theirs, ours, 100, 0.95)


def test_scores_of_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="no set was scored"):
        compare(of_values({}), of_values({}), 100, 0.95)


def test_too_few_samples_for_so_many_sets_are_refused() -> None:
    ours, theirs = ({str(index): [value] * 20 for index in range(36)} for value in (1.0, 0.0))
    with pytest.raises(
        UsageError, match="1438 samples of random signs are too few to show a difference on 36 sets"
    ) as refusal:
        compare(of_values(ours), of_values(theirs), 1438, 0.95)
    assert "at least 1439" in refusal.value.remedy
    assert {task.verdict for task in compare(of_values(ours), of_values(theirs), 1439, 0.95).tasks} == {"better"}


def test_the_verdict_in_words_names_the_better_one() -> None:
    ours, theirs = (
        of_values({"A": values, "B": values}) for values in ([1.0] * 60 + [0.0] * 40, [1.0] * 50 + [0.0] * 50)
    )
    words = compare(ours, theirs, 2000, 0.95).words("new", "old")
    assert words.startswith("new is better: +10.0 points overall (5.") and words.endswith(
        "new is better on 2 of 2 sets"
    )
    assert compare(theirs, ours, 2000, 0.95).words("old", "new").startswith("new is better: +10.0 points overall (")
    assert compare(ours, ours, 2000, 0.95).words("a", "b") == "no difference shown: +0.0 points overall (-1.8 to 1.8)"


def test_without_the_whole_benchmark_nothing_is_called_overall() -> None:
    values = {"A": [1.0, 0.0], "B": [0.0, 1.0]}
    whole, part = of_values(values, missing=[]), of_values(values, missing=["C"])
    assert compare(whole, whole, 100, 0.95).overall.name == "overall"
    assert "points over 2 sets" in compare(part, part, 100, 0.95).words("a", "b")

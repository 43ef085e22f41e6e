import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import optimize, stats

from components.scores.intervals import difference_interval, mean_interval, median_interval

Values = NDArray[np.float64]


def hits(count: int, queries: int) -> Values:
    return (np.arange(queries) < count).astype(float)


@pytest.mark.parametrize("queries", [30, 40, 100, 1000])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.9, 0.98])
def test_a_score_lies_within_its_interval_as_often_as_it_says(queries: int, share: float) -> None:
    """Exact: the probability of every number of hits, summed where the interval holds the true share."""
    every = np.arange(queries + 1)
    lower, upper = mean_interval([(np.arange(queries) < every[:, None]).astype(float)], 0.95)
    inside = (lower <= share) & (share <= upper)
    assert 0.93 <= stats.binom.pmf(every, queries, share)[inside].sum() <= 0.995


@pytest.mark.parametrize("queries", [4, 9, 300])
def test_neither_no_hit_nor_only_hits_are_certain(queries: int) -> None:
    (low, high), (from_low, from_high) = (mean_interval([np.full(queries, value)], 0.95) for value in (0.0, 1.0))
    assert low == 0 and high > stats.beta.ppf(0.95, 1, queries), "hits may come"
    assert from_high == 1 and from_low == pytest.approx(1 - high)


@pytest.mark.parametrize(("count", "queries"), [(0, 9), (3, 40), (50, 100)])
def test_hits_of_one_set_have_the_interval_of_agresti_and_coull(count: int, queries: int) -> None:
    z = stats.norm.ppf(0.95)
    share, size = (count + z**2 / 2) / (queries + z**2), queries + z**2
    half = z * math.sqrt(share * (1 - share) / size)
    assert mean_interval([hits(count, queries)], 0.9) == pytest.approx((max(0, share - half), share + half))


def test_one_set_cut_into_equal_parts_keeps_its_interval_where_the_parts_are_alike() -> None:
    whole, part = mean_interval([hits(300, 1000)], 0.95), mean_interval([hits(30, 100)] * 10, 0.95)
    assert part == pytest.approx(whole, abs=1e-4)


@pytest.mark.parametrize("sizes", [(100,) * 26, (30,) * 3, (5, 1000, 1000), (30,) * 6 + (300,) * 4])
def test_the_mean_of_sets_lies_within_its_interval_as_often_as_it_says(sizes: tuple[int, ...]) -> None:
    """Values between hit and miss, and sets of different difficulty and size."""
    generator = np.random.default_rng(0)
    shares = np.linspace(0.5, 0.95, len(sizes))
    sets = []
    for size, share in zip(sizes, shares, strict=True):
        hit = (generator.random((4000, size)) < share).astype(float)
        tied = generator.random((4000, size)) < 0.2
        sets.append(np.where(tied, 0.5, hit))
    lower, upper = mean_interval(sets, 0.95)
    true = float(np.mean(0.8 * shares + 0.1))
    assert 0.93 <= ((lower <= true) & (true <= upper)).mean() <= 0.99


def test_the_mean_is_always_within_its_interval() -> None:
    generator = np.random.default_rng(1)
    for _ in range(300):
        sizes = generator.integers(1, 40, generator.integers(1, 6))
        sets = [generator.choice([0.0, 0.5, 1.0, generator.random()], size) for size in sizes]
        lower, upper = mean_interval(sets, generator.choice([0.5, 0.9, 0.99]))
        assert 0 <= lower <= np.mean([each.mean() for each in sets]) <= upper <= 1


def garwood(count: int, error: float) -> tuple[float, float]:
    """The exact limits of the mean of a Poisson count, by search."""
    below = 0.0 if not count else optimize.brentq(lambda mean: stats.poisson.sf(count - 1, mean) - error, 1e-9, count)
    return below, optimize.brentq(lambda mean: stats.poisson.cdf(count, mean) - error, count, count + 50)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (0, 3), (7, 0), (20, 11)])
@pytest.mark.parametrize("sets", [1, 4])
def test_where_all_queries_count_alike_wins_and_losses_have_the_exact_limits(won: int, lost: int, sets: int) -> None:
    differences = np.array([1.0] * won + [-1.0] * lost + [0.0] * (400 - won - lost))
    parts = np.split(np.random.default_rng(0).permutation(differences), sets)
    (least_won, most_won), (least_lost, most_lost) = garwood(won, 0.05), garwood(lost, 0.05)
    expected = (
        won - lost - math.hypot(won - least_won, most_lost - lost),
        won - lost + math.hypot(most_won - won, lost - least_lost),
    )
    assert np.multiply(difference_interval(parts, 0.9), 400) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("margin", [0.01, 0.05])
@pytest.mark.parametrize("queries", [1, 30, 100, 290, 299, 1000])
def test_a_model_worse_by_the_margin_is_rarely_taken_for_a_better_one(queries: int, margin: float) -> None:
    """Exact, for losses only: the probability of every number of losses, summed where the bound clears the margin."""
    every = np.arange(queries + 1)
    lower, _ = difference_interval([-(np.arange(queries) < every[:, None]).astype(float)], 0.9)
    assert stats.binom.pmf(every, queries, margin)[lower >= -margin].sum() <= 0.05


def test_no_query_that_differs_is_enough_evidence_for_many_queries_only() -> None:
    same = np.zeros(100)
    assert difference_interval([same], 0.9) == pytest.approx((math.log(0.05) / 100, -math.log(0.05) / 100))
    assert difference_interval([same] * 26, 0.9)[0] == pytest.approx(math.log(0.05) / 2600)


def test_a_small_set_makes_the_interval_as_wide_as_one_more_loss_in_it() -> None:
    lower, _ = difference_interval([np.zeros(10), np.zeros(10_000)], 0.9)
    assert lower == pytest.approx(math.log(0.05) / 20)


def test_the_interval_of_a_difference_turns_with_it_and_holds_it() -> None:
    generator = np.random.default_rng(2)
    for _ in range(200):
        sizes = generator.integers(1, 60, generator.integers(1, 5))
        sets = [generator.choice([-1, -0.3, 0, 0, 0, 0.5], size) for size in sizes]
        lower, upper = difference_interval(sets, 0.95)
        assert -1 <= lower <= np.mean([each.mean() for each in sets]) <= upper <= 1
        assert difference_interval([-each for each in reversed(sets)], 0.95) == pytest.approx((-upper, -lower))


def test_many_samples_at_once_are_as_each_alone() -> None:
    generator = np.random.default_rng(3)
    sets = [generator.choice([-1.0, 0.0, 0.0, 0.5], (20, size)) for size in (3, 30)]
    for interval, values in ((difference_interval, sets), (mean_interval, [abs(each) for each in sets])):
        alone = [interval([each[row] for each in values], 0.95) for row in range(20)]
        assert np.transpose(interval(values, 0.95)) == pytest.approx(np.array(alone))


def test_the_interval_of_a_median_holds_whatever_the_distribution_and_needs_enough_values() -> None:
    generator = np.random.default_rng(0)
    missed = sum(
        not lower <= 1 <= upper
        for lower, upper in (median_interval(np.exp(generator.standard_cauchy(12)), 0.9) for _ in range(2000))
    )
    assert missed / 2000 <= 0.1, "12 values: the third from each end, which miss it in 3.9 % of all cases"
    assert missed / 2000 == pytest.approx(2 * stats.binom.cdf(2, 12, 0.5), abs=0.012)
    assert median_interval(np.arange(12.0), 0.9) == (2.0, 9.0)
    assert median_interval(np.arange(4.0), 0.9) == (-np.inf, np.inf)

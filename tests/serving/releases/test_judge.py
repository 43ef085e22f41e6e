"""A canary as good as stable stays, however often it is judged; a worse one goes, for the reason that holds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binom, fisher_exact

from serving.releases.judge import CanaryLimits, evidence, judge
from tests.serving.releases.made_up import TargetStats

LIMITS = CanaryLimits()
RUNS, LOOKS, A_LOOK = 150, 30, 120


def stats(requests: int, errors: int = 0, latencies_ms: object = ()) -> TargetStats:
    return TargetStats(requests, errors, latencies_ms)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "total", "rate"), [(0, 10, 0.1), (3, 10, 0.1), (9, 10, 0.5), (40, 60, 0.3)])
def test_evidence_is_the_mixed_likelihood_ratio(count: int, total: int, rate: float) -> None:
    mixed, _ = quad(lambda other: binom.pmf(count, total, other), rate, 1)
    assert np.exp(evidence(count, total, rate)) == pytest.approx(mixed / (1 - rate) / binom.pmf(count, total, rate))


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5])
@pytest.mark.parametrize("true_rate", [1.0, 0.6])
def test_evidence_is_worth_one_at_most_on_average(rate: float, true_rate: float) -> None:
    """The property that makes it an e-value, exactly, over all outcomes; above the rate it does not hold."""
    outcomes = np.arange(51)
    values = np.exp([evidence(int(count), 50, rate) for count in outcomes])
    assert (values * binom.pmf(outcomes, 50, rate * true_rate)).sum() <= 1 + 1e-9
    assert (values * binom.pmf(outcomes, 50, min(1, rate * 1.9))).sum() > 1.5


def test_extreme_counts_are_numbers() -> None:
    assert evidence(0, 10**6, 0.5) == -np.inf
    assert evidence(0, 10, 0.0) == 0
    assert evidence(1, 10, 0.0) == np.inf
    assert evidence(10, 10, 1.0) == 0


@pytest.mark.parametrize(
    ("stable", "canary", "reason"),
    [
        (stats(900), stats(100, 5), "5 of 100 requests failed, 0 of 900 by stable"),
        (stats(500, 1), stats(500, 30), "30 of 500 requests failed, 1 of 500"),
        (stats(0), stats(100, 40), "40 of 100 requests failed; at most 5% may"),
        (stats(400, 0, [10.0] * 400), stats(200, 0, [16.0] * 200), "200 of 200 answers took more than 15.0 ms"),
        (
            stats(1000, 0, [10.0] * 1000),
            stats(200, 0, [10.0] * 150 + [100.0] * 50),
            "50 of 200 answers took more than 15.0 ms, 1.5 times what 5% of stable's",
        ),
    ],
)
def test_a_worse_canary_goes(stable: TargetStats, canary: TargetStats, reason: str) -> None:
    judgement = judge(stable, canary, LIMITS)
    assert judgement.verdict == "return"
    assert reason in judgement.reason


@pytest.mark.parametrize(
    ("stable", "canary"),
    [
        (stats(0), stats(0)),
        (stats(900), stats(19, 19)),  # too few
        (stats(900, 9), stats(100, 1)),
        (stats(900, 90), stats(100, 4)),  # better than stable
        (stats(0), stats(1000, 20)),
        (stats(400, 0, [10.0] * 400), stats(200, 0, [14.0] * 200)),
        (stats(400, 0, [10.0] * 400), stats(99, 0, [99.0] * 99)),  # too few
        (stats(99, 0, [10.0] * 99), stats(400, 0, [99.0] * 400)),
    ],
)
def test_one_that_is_no_worse_stays(stable: TargetStats, canary: TargetStats) -> None:
    assert judge(stable, canary, LIMITS).verdict == "keep"


def returned_share(share: float, error_rates: tuple[float, float], slowdown: float, seed: int) -> float:
    """Returns in which share of simulated canaries one of `LOOKS` judgements returned it."""
    random = np.random.default_rng(seed)
    return sum(ever_returned(random, share, error_rates, slowdown) for _ in range(RUNS)) / RUNS


def ever_returned(random: np.random.Generator, share: float, error_rates: tuple[float, float], slowdown: float) -> bool:
    by_canary = random.random(LOOKS * A_LOOK) < share
    failed = random.random(by_canary.size) < np.where(by_canary, error_rates[1], error_rates[0])
    latencies = random.lognormal(2, 0.5, by_canary.size) * np.where(by_canary, slowdown, 1)
    for seen in range(A_LOOK, by_canary.size + 1, A_LOOK):
        of_canary, of_stable = by_canary[:seen], ~by_canary[:seen]
        stable, canary = (
            stats(int(of.sum()), int(failed[:seen][of].sum()), latencies[:seen][of][-500:])
            for of in (of_stable, of_canary)
        )
        if judge(stable, canary, LIMITS).verdict == "return":
            return True
    return False


@pytest.mark.parametrize(("share", "error_rate"), [(0.1, 0.01), (0.1, 0.05), (0.5, 0.03)])
def test_equal_canaries_are_returned_at_most_at_the_level(share: float, error_rate: float) -> None:
    level = returned_share(share, (error_rate, error_rate), 1.0, seed=1)
    assert binom.sf(level * RUNS - 1, RUNS, LIMITS.level) > 0.001


@pytest.mark.parametrize(("error_rates", "slowdown"), [((0.01, 0.08), 1.0), ((0.0, 0.02), 1.0), ((0.01, 0.01), 2.5)])
def test_worse_canaries_are_found(error_rates: tuple[float, float], slowdown: float) -> None:
    assert returned_share(0.2, error_rates, slowdown, seed=2) > 0.9


def test_a_p_value_would_return_equal_canaries_if_it_were_asked_as_often() -> None:
    """Why the judge uses e-values: Fisher's exact test at the same level, looked at as often, errs far more."""
    random = np.random.default_rng(3)
    returned = 0
    for _ in range(RUNS):
        errors = random.binomial(A_LOOK // 2, 0.1, (2, LOOKS)).cumsum(axis=1)
        requests = np.arange(1, LOOKS + 1) * A_LOOK // 2
        returned += any(
            fisher_exact([[c, n - c], [s, n - s]], alternative="greater").pvalue <= LIMITS.level
            for s, c, n in zip(*errors, requests, strict=True)
        )
    assert returned / RUNS > 3 * LIMITS.level

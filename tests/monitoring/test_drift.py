"""Every drift test: known answers, its rate of false alarms, and planted shifts that it must find."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import binom, ks_2samp, mannwhitneyu

from components.monitoring.config import TESTS
from components.traffic import Window
from monitoring.drift import classifier, frechet, mmd
from monitoring.permutations import (
    Inapplicable,
    Samples,
    kolmogorov_smirnov,
    p_value,
    pooled,
    standardised,
    step_down,
)

Draw = Callable[..., Window]
PERMUTATIONS, TRIALS, LEVEL = 39, 120, 0.1


def within_binomial(alarms: int, trials: int, rate: float) -> bool:
    """Whether so many alarms fit the rate: within its 99.9 % interval."""
    low, high = binom.interval(0.999, trials, rate)
    return bool(low <= alarms <= high)


def measured(name: str, samples: Samples) -> float:
    module = TESTS.module(name)
    return p_value(module.measure(module.Settings(), samples).values)


def moved(name: str, window: Window) -> Window:
    """The window with a shift that the test of that name is there to find."""
    columns, vectors = dict(window.columns), window.vectors.copy()
    rows = np.arange(len(window))
    if name == "norm":
        columns["norm"] = columns["norm"] + 0.8
    elif name == "top_score":
        columns["top_score"] = columns["top_score"] - 0.15
    elif name == "slice_shares":
        columns["language"] = np.where((columns["language"] == "en") & (rows % 2 == 0), "fr", columns["language"])
    elif name == "data_quality":
        columns["text_length"] = np.where(rows % 8 == 0, 5000, columns["text_length"])
    elif name == "modality_gap":
        vectors[:, 8] += np.where(columns["modality"] == "image", 0.3, -0.3)
    elif name == "prefix_agreement":
        vectors[:, vectors.shape[1] // 4 :] *= 4
    else:
        vectors[:, -1] += 1.5 if name == "neighbour_distance" else 0.4
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return replace(window, vectors=vectors, columns=columns)


@pytest.mark.parametrize("name", TESTS.names())
def test_false_alarms_are_as_many_as_the_level_says_and_a_planted_shift_is_found(name: str, draw: Draw) -> None:
    training = draw(200, 9999).vectors
    alarms = sum(
        measured(name, pooled(draw(150, 2 * seed), draw(100, 2 * seed + 1), PERMUTATIONS, seed, 1, training)) <= LEVEL
        for seed in range(TRIALS)
    )
    assert within_binomial(alarms, TRIALS, LEVEL)
    assert measured(name, pooled(draw(300, 0), moved(name, draw(300, 1)), PERMUTATIONS, 0, 1, training)) <= 0.05


def test_a_null_that_is_not_permuted_fails_the_test_of_false_alarms(draw: Draw) -> None:
    """A null drawn from the reference alone is what a known library takes by default."""

    def distance(one: Window, other: Window) -> float:
        return float(np.linalg.norm(one.vectors.mean(axis=0) - other.vectors.mean(axis=0)))

    alarms = 0
    for seed in range(TRIALS):
        reference, window, noise = draw(150, 2 * seed), draw(100, 2 * seed + 1), np.random.default_rng(seed)
        null = [distance(reference, reference.where(noise.integers(0, 150, 100))) for _ in range(PERMUTATIONS)]
        alarms += p_value(np.array([distance(reference, window), *null])) <= LEVEL
    assert not within_binomial(alarms, TRIALS, LEVEL)


def test_correlated_requests_need_permutations_of_blocks(draw: Draw) -> None:
    """Sessions of ten like requests: moved one by one they look like a shift, moved together they do not."""

    def sessions(seed: int) -> Window:
        window = draw(300, seed)
        return window.where(np.repeat(np.arange(30), 10))

    def alarms(block: int) -> int:
        parts = [
            pooled(sessions(2 * seed), sessions(2 * seed + 1), PERMUTATIONS, seed, block) for seed in range(TRIALS)
        ]
        return sum(measured("mean_shift", samples) <= LEVEL for samples in parts)

    assert within_binomial(alarms(10), TRIALS, LEVEL)
    assert not within_binomial(alarms(1), TRIALS, LEVEL)


def test_frechet_is_the_distance_of_two_gaussians() -> None:
    noise = np.random.default_rng(0)
    roots = noise.standard_normal((2, 5, 5))
    covariances, means = roots @ roots.transpose(0, 2, 1), noise.standard_normal((2, 5))
    expected = ((means[0] - means[1]) ** 2).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * np.real(sqrtm(covariances[0] @ covariances[1]))
    )
    found = frechet.frechet_distance(means[0], covariances[0], means[1], covariances[1])
    assert found == pytest.approx(expected, rel=1e-9)
    along_axes = frechet.frechet_distance(np.zeros(2), np.diag([1.0, 4.0]), np.array([3.0, 0.0]), np.diag([9.0, 4.0]))
    assert along_axes == pytest.approx(9 + (3 - 1) ** 2)


def test_frechet_of_all_ways_is_that_of_each_alone(draw: Draw) -> None:
    samples = pooled(draw(80, 0), draw(60, 1, shift=1), 5, 0)
    values = frechet.measure(frechet.Settings(components=4), samples).values
    rows = frechet.principal_components(samples.vectors, 4)
    for way, value in zip(samples.ways, values, strict=True):
        sides = [(side.mean(axis=0), np.cov(side.T, bias=True)) for side in (rows[way], rows[~way])]
        assert value == pytest.approx(float(frechet.frechet_distance(*sides[0], *sides[1])), rel=1e-6)


def test_mmd_is_that_of_a_plain_double_loop(draw: Draw) -> None:
    samples = pooled(draw(20, 0), draw(15, 1, shift=1), 3, 0)
    values = mmd.measure(mmd.Settings(), samples).values
    points = samples.vectors.astype(float)
    pairs = [(one, other) for one in range(35) for other in range(35) if one != other]
    squared = {pair: ((points[pair[0]] - points[pair[1]]) ** 2).sum() for pair in pairs}
    width = np.median([distance for (one, other), distance in squared.items() if one < other])
    for way, value in zip(samples.ways, values, strict=True):
        terms: dict[str, list[float]] = {"window": [], "reference": [], "across": []}
        for one, other in pairs:
            side = ("window" if way[one] else "reference") if way[one] == way[other] else "across"
            terms[side].append(np.exp(-squared[one, other] / (2 * width)))
        expected = np.mean(terms["window"]) + np.mean(terms["reference"]) - 2 * np.mean(terms["across"])
        assert value == pytest.approx(expected, abs=1e-6)


def test_mmd_drawn_from_many_rows_has_the_size_of_all(draw: Draw) -> None:
    samples = pooled(draw(600, 0), draw(600, 1, shift=1.5), 9, 0)
    whole, drawn = (mmd.measure(mmd.Settings(most=most), samples).effect for most in (1200, 800))
    assert drawn == pytest.approx(whole, rel=0.2)


def test_the_area_is_that_of_mann_and_whitney() -> None:
    noise = np.random.default_rng(0)
    scores, of_window = noise.integers(0, 9, (50, 2)).astype(float), noise.random((50, 2)) < 0.4
    expected = [
        mannwhitneyu(scores[rows, column], scores[~rows, column]).statistic / (rows.sum() * (~rows).sum())
        for column, rows in enumerate(of_window.T)
    ]
    assert classifier.areas(scores, of_window) == pytest.approx(expected)


def test_the_interval_of_the_area_covers_it() -> None:
    covered = 0
    for seed in range(200):
        noise = np.random.default_rng(seed)
        low, high = classifier.delong_interval(noise.normal(1, 1, 60), noise.normal(0, 1, 60))
        covered += low <= 0.7602 <= high  # of two unit normals whose means are 1 apart: Phi(1 / sqrt 2)
    assert 180 <= covered <= 199


def test_kolmogorov_smirnov_is_scipys_with_ties_too(draw: Draw) -> None:
    values = np.random.default_rng(0).integers(0, 12, 140).astype(float)
    samples = pooled(draw(80, 0), draw(60, 1), 4, 0)
    expected = [ks_2samp(values[way], values[~way]).statistic for way in samples.ways]
    assert kolmogorov_smirnov(values, samples) == pytest.approx(expected)


def test_a_p_value_is_never_zero_and_counts_ties() -> None:
    assert p_value(np.array([5.0, 1, 2, 3])) == 0.25
    assert p_value(np.array([5.0, 5, 2, 3])) == 0.5
    assert standardised(np.ones(4)).tolist() == [0, 0, 0, 0]


def test_step_down_keeps_the_rate_of_any_false_alarm_and_finds_the_test_that_moved() -> None:
    noise = np.random.default_rng(0)
    tables = noise.standard_normal((400, 8, 40))
    alarms = sum(min(step_down(list(table))) <= LEVEL for table in tables)
    assert within_binomial(alarms, 400, LEVEL)
    alone = sum(min(p_value(test) for test in table) <= LEVEL for table in tables)
    assert not within_binomial(alone, 400, LEVEL), "eight tests that are not adjusted alarm too often"
    tables[0, 3, 0] = 20
    adjusted = step_down(list(tables[0]))
    assert adjusted[3] == 1 / 40
    assert min(p for test, p in enumerate(adjusted) if test != 3) > adjusted[3]


def test_what_is_not_recorded_is_said(draw: Draw) -> None:
    samples = pooled(replace(draw(30, 0), columns={}), replace(draw(30, 1), columns={}), 19, 0)
    for name in ("norm", "top_score", "slice_shares", "data_quality", "modality_gap", "neighbour_distance"):
        with pytest.raises(Inapplicable):
            measured(name, samples)


def test_requests_without_a_vector_are_left_out_of_tests_of_vectors(draw: Draw) -> None:
    reference, window = draw(100, 0), draw(100, 1)
    broken = window.vectors.copy()
    broken[::10] = np.nan
    samples = pooled(reference, replace(window, vectors=broken), 19, 0)
    for name in ("frechet", "mmd", "mean_shift", "classifier", "anisotropy", "prefix_agreement"):
        assert 0 < measured(name, samples) <= 1

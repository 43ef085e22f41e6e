"""Metrics against trec_eval, ranx and mteb without ties, and against the mean over all orders with them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import pytrec_eval
import ranx
from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores

from components.errors import UsageError
from components.evaluation.metrics import METRICS, REPORTED, Ranks, parse, values

Case = tuple[Sequence[float], Mapping[int, float]]
"""The scores of one query's candidates, and the grade of each relevant one."""


def ranked(cases: Sequence[Case]) -> Ranks:
    rows = [
        (query, grade, sum(other > scores[label] for other in scores), sum(other == scores[label] for other in scores))
        for query, (scores, grades) in enumerate(cases)
        for label, grade in grades.items()
    ]
    query, grade, above, tied = map(np.array, zip(*rows, strict=True))
    return Ranks(len(cases), query, grade.astype(float), above, tied)


def random_cases(count: int, levels: int, seed: int = 0, candidates: int = 30, grades: int = 3) -> list[Case]:
    """Without ties if `levels` is 0, otherwise with so many different scores."""
    generator = np.random.default_rng(seed)
    cases: list[Case] = []
    for _ in range(count):
        scores = generator.permutation(candidates) if not levels else generator.integers(0, levels, candidates)
        labels = generator.choice(candidates, generator.integers(1, min(8, candidates)), replace=False)
        cases.append(
            (scores.astype(float).tolist(), {int(label): float(generator.integers(1, grades + 1)) for label in labels})
        )
    return cases


def plain(order: Sequence[int], grades: Mapping[int, float], name: str, k: int) -> float:
    """The definitions written down once more, for one order of the candidates."""
    gains = [grades.get(candidate, 0.0) for candidate in order[:k]]
    found = [place for place, gain in enumerate(gains) if gain]
    discount = [1 / np.log2(place + 2) for place in range(max(k, len(grades)))]
    ideal = sorted(grades.values(), reverse=True)[:k]
    if name.startswith("ndcg"):
        gain_of = (lambda g: g) if name == "ndcg_linear" else (lambda g: 2**g - 1)
        best = sum(gain_of(g) * d for g, d in zip(ideal, discount, strict=False))
        return sum(gain_of(g) * d for g, d in zip(gains, discount, strict=False)) / best
    precision_at = [sum(1 for other in found if other <= place) / (place + 1) for place in found]
    return {
        "hit": float(bool(found)),
        "recall": len(found) / len(grades),
        "precision": len(found) / k,
        "f1": 2 * len(found) / (k + len(grades)),
        "mrr": 1 / (found[0] + 1) if found else 0.0,
        "map": sum(precision_at) / min(k, len(grades)),
    }[name]


@pytest.mark.parametrize("metric", [f"{name}@{k}" for name in METRICS for k in (1, 2, 3, 7)])
def test_a_tie_is_worth_the_mean_over_all_orders_of_the_tied(metric: str) -> None:
    name, k = parse(metric)
    cases = random_cases(25, levels=3, candidates=6)
    expected = []
    for scores, grades in cases:
        groups = [
            [candidate for candidate, score in enumerate(scores) if score == level]
            for level in sorted(set(scores), reverse=True)
        ]
        orders = itertools.product(*(itertools.permutations(group) for group in groups))
        expected.append(np.mean([plain([*itertools.chain(*order)], grades, name, k) for order in orders]))
    assert values(ranked(cases), metric) == pytest.approx(np.array(expected), abs=1e-12)


@pytest.mark.parametrize("k", [1, 5, 10, 30])
@pytest.mark.parametrize(
    ("name", "theirs"), [("recall", "recall"), ("precision", "P"), ("ndcg_linear", "ndcg_cut"), ("hit", "success")]
)
def test_equal_to_trec_eval(name: str, theirs: str, k: int) -> None:
    cases = random_cases(200, levels=0)
    truth, run = as_dictionaries(cases)
    answers = pytrec_eval.RelevanceEvaluator(truth, {f"{theirs}.{k}"}).evaluate(run)
    expected = [answers[f"q{query:03}"][f"{theirs}_{k}"] for query in range(len(cases))]
    assert values(ranked(cases), f"{name}@{k}") == pytest.approx(np.array(expected), abs=1e-9)


def test_map_is_that_of_trec_eval_where_k_covers_the_relevant_ones_and_only_there() -> None:
    cases = random_cases(200, levels=0)
    truth, run = as_dictionaries(cases)
    answers = pytrec_eval.RelevanceEvaluator(truth, {"map_cut.10", "map_cut.1"}).evaluate(run)
    for k, agrees in ((10, True), (1, False)):
        expected = np.array([answers[f"q{query:03}"][f"map_cut_{k}"] for query in range(len(cases))])
        assert np.allclose(values(ranked(cases), f"map@{k}"), expected, atol=1e-9) == agrees


@pytest.mark.slow  # ranx compiles for a minute
@pytest.mark.parametrize("k", [1, 5, 10])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("hit", "hit_rate"), ("recall", "recall"), ("precision", "precision"), ("f1", "f1"), ("mrr", "mrr"),
        ("ndcg_linear", "ndcg"), ("ndcg_exponential", "ndcg_burges"),
    ],
)  # fmt: skip
def test_equal_to_ranx(name: str, theirs: str, k: int) -> None:
    cases = random_cases(100, levels=0)
    truth, run = as_dictionaries(cases)
    expected = ranx.evaluate(ranx.Qrels(truth), ranx.Run(run), f"{theirs}@{k}", return_mean=False)
    assert values(ranked(cases), f"{name}@{k}") == pytest.approx(np.asarray(expected), abs=1e-9)


def test_equal_to_mteb() -> None:
    cases = random_cases(100, levels=0)
    truth, run = as_dictionaries(cases)
    found = calculate_retrieval_scores(run, truth, [1, 5, 10])
    for ours, theirs in (("ndcg_linear", found.ndcg), ("recall", found.recall), ("precision", found.precision)):
        for k in (1, 5, 10):
            key = next(key for key in theirs if key.endswith(f"@{k}"))
            assert np.mean(values(ranked(cases), f"{ours}@{k}")) == pytest.approx(theirs[key], abs=1e-5)


@pytest.mark.parametrize("metric", REPORTED)
def test_every_metric_lies_within_0_to_1_and_a_perfect_ranking_has_the_best_value(metric: str) -> None:
    cases = random_cases(100, levels=4)
    perfect = [([grades.get(label, 0.0) for label in range(len(scores))], grades) for scores, grades in cases]
    found, best = values(ranked(cases), metric), values(ranked(perfect), metric)
    assert (found >= 0).all() and (best <= 1 + 1e-12).all() and (found <= best + 1e-12).all()
    if metric.startswith(("hit", "mrr", "map", "ndcg")):
        assert best == pytest.approx(np.ones(100))


def test_a_constant_scorer_is_at_chance() -> None:
    found = values(ranked([([1.0] * 50, {7: 1.0})]), "hit@1")
    assert found == pytest.approx([1 / 50])


def test_the_rank_of_the_first_relevant_candidate_is_the_mean_over_orders() -> None:
    assert ranked([([3, 2, 2, 2, 1], {1: 1, 2: 1})]).first == pytest.approx([1 + np.mean([1, 1, 1, 1, 2, 2])])


def test_a_tie_among_equally_relevant_candidates_decides_nothing() -> None:
    assert ranked([([1, 1, 0], {0: 1, 1: 1})]).undecided.tolist() == [False]
    assert ranked([([1, 1, 0], {0: 1, 1: 2}), ([1, 1, 0], {0: 1}), ([1, 0, 0], {0: 1})]).undecided.tolist() == [
        True, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize("metric", ["ndcg@5", "hit@0", "hit", "hit@01", "HIT@1", "accuracy@1", "hit@1.5", ""])
def test_an_unknown_metric_is_an_error(metric: str) -> None:
    with pytest.raises(UsageError, match="no such metric"):
        values(ranked([([1, 0], {0: 1})]), metric)


def test_graded_ndcg_does_not_hang_on_the_hash_seed() -> None:
    script = (
        "from components.evaluation.metrics import Ranks, values; import numpy as np;"
        "ranks = Ranks(1, np.array([0, 0]), np.array([3.0, 1.0]), np.array([2, 0]), np.array([1, 1]));"
        "print(values(ranks, 'ndcg_linear@5')[0])"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    best = 3 + 1 / np.log2(3)
    assert len(answers) == 1 and float(answers.pop()) == pytest.approx((1 + 3 / 2) / best)


def as_dictionaries(cases: Sequence[Case]) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Returns relevance and run in trec_eval's form."""
    truth = {
        f"q{query:03}": {f"d{label}": int(grade) for label, grade in grades.items()}
        for query, (_, grades) in enumerate(cases)
    }
    run = {
        f"q{query:03}": {f"d{label}": float(score) for label, score in enumerate(scores)}
        for query, (scores, _) in enumerate(cases)
    }
    return truth, run

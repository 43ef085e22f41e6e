from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics.pairwise import cosine_similarity

from components.embedder import Vectors
from components.errors import EmbedlineError
from components.evaluation import Cosine, Ranks, ranks
from components.evaluation.metrics import values
from components.evaluation.scoring import Positions, joined, normalised


class Hits(NamedTuple):
    expected: NDArray[np.float64]
    tied: NDArray[np.bool_]


def hit_at_1(vectors: Vectors, queries: Positions, candidates: Positions, relevant: Positions) -> Hits:
    unit = normalised(vectors)
    found = ranks(Cosine(unit, unit), queries, candidates, relevant)
    return Hits(values(found, "hit@1"), found.undecided)


def score(queries: list[list[float]], candidates: list[list[float]], relevant: list[list[int]]) -> Hits:
    vectors = np.array(queries + candidates, np.float32)
    places = np.arange(len(vectors))
    return hit_at_1(vectors, places[: len(queries)], places[len(queries) :], np.array(relevant))


def random_unit(count: int, dimension: int, seed: int = 0) -> Vectors:
    vectors: Vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def test_known_answers() -> None:
    queries = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    candidates = [[2.0, 0.1], [-1.0, 5.0], [3.0, 3.0]]
    hits = score(queries, candidates, [[0, 0], [1, 2], [2, 2]])
    assert hits.expected.tolist() == [1, 0, 1] and not hits.tied.any()


@pytest.mark.parametrize(
    ("candidates", "relevant", "expected", "undecided"),
    [
        ([[1, 0], [1, 0], [0, 1]], [[0, 0]], 1 / 2, True),
        ([[1, 0], [5, 0], [2, 0]], [[0, 2]], 1 / 3, True),
        ([[1, 0], [1, 0], [1, 0]], [[0, 0], [0, 2]], 2 / 3, True),
        ([[1, 0], [1, 0], [0, 1]], [[0, 0], [0, 1]], 1, False),
        ([[1, 0], [1, 0], [0, 1]], [[0, 2]], 0, False),
    ],
)
def test_a_tie_is_worth_its_expected_value(
    candidates: list[list[float]], relevant: list[list[int]], expected: float, undecided: bool
) -> None:
    hits = score([[1.0, 0.0]], candidates, relevant)
    assert hits.expected == pytest.approx([expected]) and hits.tied.tolist() == [undecided]


def test_a_tie_of_candidates_that_are_not_the_best_is_none() -> None:
    hits = score([[1.0, 0.0]], [[1, 0], [0, 1], [0, 1]], [[0, 0]])
    assert hits.expected.tolist() == [1] and not hits.tied.any()


def test_several_relevant_candidates_are_each_a_hit() -> None:
    assert score([[1.0, 0.0]], [[0, 1], [1, 0.1], [1, 1]], [[0, 0], [0, 1]]).expected.tolist() == [1]


@pytest.mark.parametrize("candidates", [2047, 2048, 2049, 5000])
def test_blocks_do_not_show(candidates: int) -> None:
    """More queries and candidates than a block holds; the best candidate and its equal lie in any block.

    Half of the truths are the best of the first block alone.
    """
    vectors = np.concatenate([random_unit(1100, 8), random_unit(candidates, 8, 1)])
    vectors[-200:] = vectors[1100:1300]
    places = np.arange(len(vectors))
    similarities = cosine_similarity(vectors[:1100].astype(float), vectors[1100:].astype(float))
    top = similarities >= similarities.max(axis=1, keepdims=True) - 1e-12
    truth = similarities.argmax(axis=1)
    truth[550:] = similarities[550:, :900].argmax(axis=1)
    relevant = np.stack([np.arange(1100), truth], 1)
    hits = hit_at_1(vectors, places[:1100], places[1100:], np.random.default_rng(3).permutation(relevant))
    assert hits.expected == pytest.approx(top[np.arange(1100), truth] / top.sum(axis=1), abs=1e-12)
    at_truth = similarities[np.arange(1100), truth][:, None]
    assert (hits.tied == ((abs(similarities - at_truth) < 1e-12).sum(axis=1) > 1)).all() and hits.tied.any()


@pytest.mark.parametrize("rounding", [np.float32, np.float16])
def test_the_order_of_the_candidates_does_not_matter(rounding: type[np.floating]) -> None:
    """Candidates of few different values, so that many tie and a matrix product sums them in many ways."""
    generator = np.random.default_rng(0)
    few = random_unit(40, 33).astype(rounding).astype(np.float32)
    vectors = np.concatenate([random_unit(50, 33, 1), few[generator.integers(0, 40, 700)]])
    truth = generator.integers(0, 700, 50)
    queries, candidates = np.arange(50), np.arange(50, 750)
    reference = hit_at_1(vectors, queries, candidates, np.stack([queries, truth], 1))
    assert reference.tied.any()
    for _ in range(20):
        order = generator.permutation(700)
        relevant = np.stack([queries, np.argsort(order)[truth]], 1)
        permuted = hit_at_1(vectors, queries, candidates[order], relevant)
        assert (permuted.expected == reference.expected).all() and (permuted.tied == reference.tied).all()


def test_a_model_that_differs_by_less_than_float32_holds_is_a_constant_model() -> None:
    noise = np.random.default_rng(0).normal(0, 1e-9, (101, 64))
    vectors = (np.full((101, 64), 0.125) + noise).astype(np.float32)
    hits = hit_at_1(vectors, np.array([0]), np.arange(1, 101), np.array([[0, 0]]))
    assert hits.tied.all() and hits.expected == pytest.approx([0.01])


@pytest.mark.parametrize("norm", [1e-30, 1e-4, 1e18])
def test_the_length_of_a_vector_does_not_matter(norm: float) -> None:
    vectors = random_unit(60, 16)
    places, relevant = np.arange(60), np.stack([np.arange(10), np.arange(10)], 1)
    plain = hit_at_1(vectors, places[:10], places[10:], relevant)
    lengths = np.where(places % 2, np.float32(norm), np.float32(1))[:, None]
    assert (hit_at_1(vectors * lengths, places[:10], places[10:], relevant).expected == plain.expected).all()


@pytest.mark.parametrize(
    ("value", "defect"),
    [(np.nan, "is not finite"), (np.inf, "is not finite"), (-np.inf, "is not finite"), (0, "is zero")],
)
@pytest.mark.parametrize("row", [3, 17])
def test_a_broken_vector_is_refused_by_name(value: float, defect: str, row: int) -> None:
    vectors = random_unit(20, 4)
    normalised(vectors)
    vectors[row] = value
    with pytest.raises(EmbedlineError, match=f"item {row}: the vector {defect}"):
        normalised(vectors, lambda position: f"item {position}")


def sorted_ranks(vectors: Vectors, queries: Positions, candidates: Positions, relevant: Positions) -> Ranks:
    """The same by sorting every score, in float64."""
    scores = np.rint(vectors[queries].astype(float) @ vectors[candidates].astype(float).T * 2**24)
    query, answer = relevant[np.argsort(relevant[:, 0], kind="stable")].T
    truth = scores[query, answer][:, None]
    return Ranks(
        len(queries), query, np.ones(len(query)), (scores[query] > truth).sum(1), (scores[query] == truth).sum(1)
    )


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-5, 1e-7, 0.0])
def test_what_float32_cannot_separate_is_separated_by_the_exact_scores(spread: float) -> None:
    """From vectors far apart to equal ones; several relevant candidates a query, in any order."""
    generator = np.random.default_rng(1)
    vectors = normalised((1 + spread * generator.normal(size=(700, 48))).astype(np.float32))
    queries, candidates = np.arange(40), np.arange(40, 700)
    relevant = np.stack([generator.integers(0, 40, 700), generator.integers(0, 660, 700)], 1)
    relevant = np.unique(np.concatenate([relevant, np.stack([np.arange(40), np.arange(40)], 1)]), axis=0)
    generator.shuffle(relevant)
    found = ranks(Cosine(vectors, vectors), queries, candidates, relevant)
    expected = sorted_ranks(vectors, queries, candidates, relevant)
    assert sorted(zip(found.query, found.above, found.tied, strict=True)) == sorted(
        zip(expected.query, expected.above, expected.tied, strict=True)
    )


def test_pools_are_joined_by_the_rows_of_their_queries() -> None:
    vectors = random_unit(50, 8)
    similarity = Cosine(vectors, vectors)
    whole = ranks(similarity, np.arange(6), np.arange(20, 50), np.stack([np.arange(6)] * 2, 1))
    parts = [
        (rows, ranks(similarity, rows, np.arange(20, 50), np.stack([np.arange(len(rows)), rows], 1)))
        for rows in (np.array([4, 0, 2]), np.array([5, 1, 3]))
    ]
    assert (values(joined(parts, 6), "mrr@30") == values(whole, "mrr@30")).all()

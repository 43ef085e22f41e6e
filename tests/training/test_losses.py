import math

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch import Tensor
from torch.nn import functional

from components.training.batch import Batch, Span, equal_rows
from components.training.losses import (
    contrastive,
    similarity_distillation,
    symmetric_contrastive,
    vector_distillation,
)

NONE_EQUAL = torch.zeros(6, 6, dtype=torch.bool)


def vectors(seed: int, rows: int = 6, dimension: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(rows, dimension, generator=generator, dtype=torch.float64), dim=-1)


def close(value: Tensor, expected: Tensor | float) -> None:
    assert value.item() == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_contrastive_is_the_ranking_loss_of_sentence_transformers(temperature: float) -> None:
    queries, candidates = vectors(1), vectors(2, rows=9)
    scale = 1 / temperature
    peer = MultipleNegativesRankingLoss(SentenceTransformer(modules=[torch.nn.Identity()], device="cpu"), scale=scale)
    with_negatives = [queries, candidates[:6], torch.cat([candidates[6:], candidates[6:]])]
    expected = peer.compute_loss_from_embeddings([queries, candidates[:6]], torch.empty(0))
    close(contrastive(queries, candidates[:6], torch.arange(6), temperature), expected)
    expected = peer.compute_loss_from_embeddings(with_negatives, torch.empty(0))
    close(contrastive(queries, torch.cat(with_negatives[1:]), torch.arange(6), temperature), expected)
    assert contrastive(queries, candidates, torch.arange(6), temperature).item() != pytest.approx(
        float(expected), abs=1e-4
    )


def test_symmetric_contrastive_is_the_mean_of_both_directions() -> None:
    queries, positives = vectors(1), vectors(2)
    logits = queries @ positives.T / 0.07
    right = torch.diag(logits)
    expected = ((logits.logsumexp(1) - right).mean() + (logits.logsumexp(0) - right).mean()) / 2
    close(symmetric_contrastive(queries, positives, NONE_EQUAL, 0.07), expected)


def test_equal_rows_are_no_negatives_of_each_other() -> None:
    queries = torch.eye(4, dtype=torch.float64)[[0, 1, 0]]
    positives = torch.eye(4, dtype=torch.float64)[[0, 1, 0]]
    equal = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    first, second = math.log(1 + math.exp(-1)), math.log(1 + 2 * math.exp(-1))
    close(symmetric_contrastive(queries, positives, equal, 1.0), (2 * first + second) / 3)
    punished = math.log(2 + math.exp(-1))
    close(symmetric_contrastive(queries, positives, torch.eye(3, dtype=torch.bool), 1.0), (2 * punished + second) / 3)


def test_an_equal_row_gives_no_gradient() -> None:
    queries, positives = vectors(1, rows=2).requires_grad_(), vectors(2, rows=2)
    symmetric_contrastive(queries, positives, torch.ones(2, 2, dtype=torch.bool), 0.1).backward()  # type: ignore[no-untyped-call]
    assert queries.grad is not None and not queries.grad.any()
    symmetric_contrastive(queries, positives, torch.eye(2, dtype=torch.bool), 0.1).backward()  # type: ignore[no-untyped-call]
    assert queries.grad.any()


def test_rows_that_share_their_query_or_their_positive_are_equal() -> None:
    queries = torch.tensor([[0, -1, 5], [1, -1, 5], [0, -1, 5], [0, -1, 6]])
    positives = torch.tensor([[-1, 7, -1], [-1, 8, -1], [-1, 9, -1], [-1, 8, -1]])
    batch = Batch(queries, positives, [Span(slice(0, 4), 1.0)], torch.empty(0, dtype=torch.long))
    expected = torch.eye(4, dtype=torch.bool)
    expected[0, 2] = expected[2, 0] = expected[1, 3] = expected[3, 1] = True
    assert torch.equal(batch.equal(slice(0, 4)), expected)
    assert torch.equal(batch.equal(slice(1, 4)), expected[1:, 1:])
    assert torch.equal(equal_rows(queries).sum(1), torch.tensor([2, 1, 2, 1]))


def test_vector_distillation_is_one_minus_the_cosine() -> None:
    student, teacher = vectors(1), vectors(2)
    close(vector_distillation(student, teacher), 1 - functional.cosine_similarity(student, teacher).mean())
    close(vector_distillation(teacher, teacher), 0)


def test_similarity_distillation_is_the_cross_entropy_of_both_directions() -> None:
    student, taught = [vectors(1), vectors(2)], [vectors(3, dimension=5), vectors(4, dimension=5)]
    expected = 0.0
    for turned in (False, True):
        ours, theirs = ((queries @ candidates.T / 0.2) for queries, candidates in (student, taught))
        ours, theirs = (ours.T, theirs.T) if turned else (ours, theirs)
        probabilities = theirs.exp() / theirs.exp().sum(1, keepdim=True)
        logarithms = (ours.exp() / ours.exp().sum(1, keepdim=True)).log()
        expected -= float((probabilities * logarithms).sum() / 6 / 2)
    close(similarity_distillation(student[0], student[1], taught[0], taught[1], 0.2), expected)


def test_similarity_distillation_is_least_where_the_student_is_as_the_teacher() -> None:
    queries, candidates = vectors(3), vectors(4)
    student = queries.clone().requires_grad_()
    least = similarity_distillation(student, candidates, queries, candidates, 0.2)
    least.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None and student.grad.abs().max() < 1e-9
    assert similarity_distillation(vectors(1), vectors(2), queries, candidates, 0.2) > least + 0.1

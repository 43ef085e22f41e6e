"""The losses of fine-tuning and distillation, on vectors that are L2-normalised."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EXCLUDED = -1e4  # a logit that no candidate reaches


def contrastive(
    queries: Tensor, candidates: Tensor, truth: Tensor, temperature: float, excluded: Tensor | None = None
) -> Tensor:
    """InfoNCE (van den Oord et al., Representation Learning with Contrastive Predictive Coding, 2018).

    `queries (n, dim)`, `candidates (m, dim)`, `truth (n,)` the position of each query's positive; `excluded (n, m)`
    marks candidates that are equal to the positive and hence no negatives. Returns the mean over the queries.
    """
    logits = queries @ candidates.T / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded, EXCLUDED)
    return functional.cross_entropy(logits, truth)


def symmetric_contrastive(queries: Tensor, positives: Tensor, equal: Tensor, temperature: float) -> Tensor:
    """InfoNCE in both directions within a batch (Radford et al., CLIP, 2021).

    `equal (n, n)` marks pairs of rows with equal queries or equal positives: no row is a negative of its equals.
    """
    truth = torch.arange(len(queries), device=queries.device)
    excluded = equal & ~torch.eye(len(queries), dtype=torch.bool, device=queries.device)
    return (
        contrastive(queries, positives, truth, temperature, excluded)
        + contrastive(positives, queries, truth, temperature, excluded.T)
    ) / 2


def vector_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of `1 - cosine` between the student's and the teacher's vectors of the same items, `(n, dim)` each."""
    return (1 - (student * teacher).sum(-1)).mean()


def similarity_distillation(
    student_queries: Tensor,
    student_candidates: Tensor,
    teacher_queries: Tensor,
    teacher_candidates: Tensor,
    temperature: float,
) -> Tensor:
    """Cross entropy between the teacher's and the student's distributions over the batch, in both directions.

    The affinity mimicking of Wu et al., TinyCLIP (2023): rows are softmax(similarity / temperature).
    """
    student = student_queries @ student_candidates.T / temperature
    teacher = teacher_queries @ teacher_candidates.T / temperature
    return (
        functional.cross_entropy(student, teacher.softmax(-1))
        + functional.cross_entropy(student.T, teacher.T.softmax(-1))
    ) / 2

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.training.losses import SubBatch, TeacherTargets

Value = Callable[[SubBatch], Tensor]


@pytest.fixture
def make_batch() -> Callable[..., SubBatch]:
    """Makes a sub-batch of unit vectors in float64, with gradients for the student's."""

    def make(rows: int = 6, negatives: int = 0, teachers: Sequence[int] = (), seed: int = 0) -> SubBatch:
        generator = torch.Generator().manual_seed(seed)

        def unit(*shape: int) -> Tensor:
            return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)

        def side(dimension: int) -> tuple[Tensor, Tensor, Tensor | None]:
            own = unit(rows, negatives, dimension) if negatives else None
            return unit(rows, dimension), unit(rows, dimension), own

        queries, positives, own = side(8)
        return SubBatch(
            queries=queries.requires_grad_(),
            positives=positives.requires_grad_(),
            negatives=None if own is None else own.requires_grad_(),
            equal=torch.eye(rows, dtype=torch.bool),
            teachers=tuple(TeacherTargets(*side(dimension)) for dimension in teachers),
        )

    return make


@pytest.fixture
def same() -> Callable[[SubBatch, Value, Value], bool]:
    """Tells whether two losses have the same value on a sub-batch, and the same gradient for every student vector.

    The vectors are normalised on the way, as an encoder does it: some peers normalise what they get, others do not.
    """

    def compare(batch: SubBatch, one: Value, other: Value) -> bool:
        vectors = [side for side in (batch.queries, batch.positives, batch.negatives) if side is not None]
        results = []
        for loss in (one, other):
            value = loss(batch.prefix(batch.queries.shape[1]))
            gradients = torch.autograd.grad(value, vectors, materialize_grads=True)
            results.append([value, *gradients])
        return all(torch.allclose(ours, theirs, rtol=1e-9, atol=1e-11) for ours, theirs in zip(*results, strict=True))

    return compare

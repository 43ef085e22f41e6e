from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, permutations

import pytest
import torch
from torch import Tensor

from components.training.losses import SubBatch, build

MakeBatch = Callable[..., SubBatch]
Value = Callable[[SubBatch], Tensor]
Same = Callable[[SubBatch, Value, Value], bool]


def reference(margin: float, every: int = 1, sign: float = 1.0) -> Value:
    """Zhang et al., 2024, equation 3: pairs of pairs that the teacher, several in a row, puts in an order."""

    def hinge(student: Tensor, teachers: Sequence[Tensor]) -> Tensor:
        taught = torch.cat(list(teachers), 1) / len(teachers) ** 0.5
        pairs = list(combinations(range(len(student)), 2))[::every]
        hinges = [
            torch.clamp(sign * (student[k] @ student[m] - student[i] @ student[j]) + margin, min=0)
            for (i, j), (k, m) in permutations(pairs, 2)
            if taught[i] @ taught[j] > taught[k] @ taught[m]
        ]
        return torch.stack(hinges).mean()

    def value(batch: SubBatch) -> Tensor:
        queries = hinge(batch.queries, [teacher.queries for teacher in batch.teachers])
        positives = hinge(batch.positives, [teacher.positives for teacher in batch.teachers])
        return (queries + positives) / 2

    return value


@pytest.mark.parametrize("teachers", [[5], [5, 8]])
@pytest.mark.parametrize("margin", [0.015, 0.3])
def test_it_is_the_hinge_of_the_paper(make_batch: MakeBatch, same: Same, margin: float, teachers: list[int]) -> None:
    batch = make_batch(teachers=teachers)
    loss = build("relative", {"margin": margin}, 8, teachers)
    assert same(batch, loss, reference(margin))
    assert not same(batch, loss, reference(margin, sign=-1.0))
    assert not same(batch, loss, reference(margin + 0.01))


def test_beyond_the_most_pairs_it_takes_every_second(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(teachers=[5])
    assert same(batch, build("relative", {"pairs": 8}, 8, [5]), reference(0.015, every=2))  # 6 rows have 15 pairs
    assert same(batch, build("relative", {"pairs": 15}, 8, [5]), reference(0.015))
    assert not same(batch, build("relative", {"pairs": 14}, 8, [5]), reference(0.015))


def test_only_the_order_counts_and_by_a_margin(make_batch: MakeBatch) -> None:
    corners = torch.eye(3, dtype=torch.float64)
    near, far = corners[0] * 0.8 + corners[1] * 0.6, corners[2]
    teacher = torch.stack([corners[0], near, far])
    batch = make_batch(rows=3, teachers=[3])
    taught = replace(batch.teachers[0], queries=teacher, positives=teacher)
    loss = build("relative", {"margin": 0.1}, 3, [3])
    # cosines of the three pairs: .8, 0 and 0, of which the teacher orders two
    batch = replace(batch, queries=teacher, positives=teacher, teachers=(taught,))
    assert loss(batch).item() == 0
    turned = teacher[[0, 2, 1]]  # the student's cosines: 0, .8 and 0
    batch = replace(batch, queries=turned, positives=turned)
    assert loss(batch).item() == pytest.approx((0.9 + 0.1) / 2)


def test_rows_in_no_order_have_no_loss(make_batch: MakeBatch) -> None:
    for rows in (1, 2):
        batch = make_batch(rows=rows, teachers=[5])
        loss = build("relative", {}, 8, [5])(batch)
        assert loss.item() == 0
        assert not any(gradient.any() for gradient in torch.autograd.grad(loss, [batch.queries, batch.positives]))

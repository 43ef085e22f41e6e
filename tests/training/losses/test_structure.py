from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.training.losses import SubBatch, TeacherTargets, build

MakeBatch = Callable[..., SubBatch]
Value = Callable[[SubBatch], Tensor]
Same = Callable[[SubBatch, Value, Value], bool]


def reference(sides: tuple[str, ...] = ("queries", "positives")) -> Value:
    """Zhang et al., 2024, equation 2, on the queries and on the positives; several teachers are one in a row."""

    def value(batch: SubBatch) -> Tensor:
        total, count = torch.zeros((), dtype=torch.float64), 0
        for side in sides:
            student = getattr(batch, side)
            teacher = torch.cat([getattr(one, side) for one in batch.teachers], 1)
            for one in range(len(student)):
                for other in range(len(student)):
                    theirs = torch.cosine_similarity(teacher[one], teacher[other], dim=0)
                    total = total + (student[one] @ student[other] - theirs) ** 2
                    count += 1
        return total / count

    return value


@pytest.mark.parametrize("teachers", [[5], [5, 8]])
def test_it_is_the_similarity_loss_of_the_paper(make_batch: MakeBatch, same: Same, teachers: list[int]) -> None:
    batch = make_batch(teachers=teachers)
    loss = build("structure", {}, 8, teachers)
    assert same(batch, loss, reference())
    assert not same(batch, loss, reference(("queries",)))
    assert not same(batch, loss, lambda batch: reference()(replace(batch, teachers=(batch.teachers[0],) * 2)) * 1.01)


def test_turning_the_students_space_changes_nothing(make_batch: MakeBatch) -> None:
    batch = make_batch(teachers=[8])
    (teacher,) = batch.teachers
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    loss = build("structure", {}, 8, [8])
    turned = replace(batch, queries=teacher.queries @ turn, positives=teacher.positives @ turn.T)
    assert loss(turned).item() == pytest.approx(0, abs=1e-12)
    assert loss(batch).item() > 0.01


def test_queries_and_positives_are_not_held_against_each_other(make_batch: MakeBatch) -> None:
    batch = make_batch(teachers=[8])
    (teacher,) = batch.teachers
    student = replace(batch, queries=teacher.queries, positives=teacher.positives)
    opposite = replace(student, teachers=(TeacherTargets(teacher.queries, -teacher.positives),))
    assert build("structure", {}, 8, [8])(opposite).item() == pytest.approx(0, abs=1e-12)

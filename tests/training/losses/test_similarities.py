from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.training.losses import Loss, SubBatch, build

MakeBatch = Callable[..., SubBatch]
Value = Callable[[SubBatch], Tensor]
Same = Callable[[SubBatch, Value, Value], bool]


def similarities(student: float = 0.2, teacher: float = 0.2, teachers: Sequence[int] = (5,)) -> Loss:
    return build("similarities", {"student_temperature": student, "teacher_temperature": teacher}, 8, teachers)


def reference(student_temperature: float, teacher_temperature: float, directions: Sequence[bool]) -> Value:
    """Wu et al., TinyCLIP, 2023: mean of both directions; teachers are averaged as in MobileCLIP."""

    def value(batch: SubBatch) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for turned in directions:
            ours = batch.queries @ batch.positives.T / student_temperature
            theirs = [teacher.queries @ teacher.positives.T / teacher_temperature for teacher in batch.teachers]
            if turned:
                ours, theirs = ours.T, [logits.T for logits in theirs]
            for row in range(len(ours)):
                chosen = ours[row].exp() / ours[row].exp().sum()
                for logits in theirs:
                    probabilities = logits[row].exp() / logits[row].exp().sum() / len(theirs)
                    total = total - (probabilities * chosen.log()).sum()
        return total / len(batch.queries) / len(directions)

    return value


@pytest.mark.parametrize("teachers", [[5], [5, 8, 3]])
@pytest.mark.parametrize("temperatures", [(0.2, 0.2), (0.5, 0.1)])
def test_it_is_the_cross_entropy_of_both_directions(
    make_batch: MakeBatch, same: Same, teachers: list[int], temperatures: tuple[float, float]
) -> None:
    batch = make_batch(teachers=teachers)
    student, teacher = temperatures
    loss = similarities(student, teacher, teachers)
    assert same(batch, loss, reference(student, teacher, [False, True]))
    assert not same(batch, loss, reference(student, teacher, [False]))
    if student != teacher:
        assert not same(batch, loss, reference(teacher, student, [False, True]))


def test_several_teachers_are_averaged_as_distributions_and_not_as_similarities(
    make_batch: MakeBatch, same: Same
) -> None:
    batch = make_batch(teachers=[5, 7])

    def joined(batch: SubBatch) -> Tensor:
        one, other = batch.teachers
        both = replace(
            one,
            queries=torch.cat([one.queries, other.queries], 1) / 2**0.5,
            positives=torch.cat([one.positives, other.positives], 1) / 2**0.5,
        )
        return similarities()(replace(batch, teachers=(both,)))  # type: ignore[no-any-return]

    assert not same(batch, similarities(teachers=[5, 7]), joined)


def test_it_is_least_where_the_student_is_as_the_teacher(make_batch: MakeBatch) -> None:
    batch = make_batch(teachers=[8])
    (teacher,) = batch.teachers
    student = teacher.queries.clone().requires_grad_()
    least = similarities()(replace(batch, queries=student, positives=teacher.positives))
    (gradient,) = torch.autograd.grad(least, [student])
    assert gradient.abs().max() < 1e-9
    assert similarities()(batch).item() > least.item() + 0.1
    (gradient,) = torch.autograd.grad(similarities(0.2, 0.1)(replace(batch, queries=student)), [student])
    assert gradient.abs().max() > 1e-3

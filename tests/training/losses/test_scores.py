from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import DistillKLDivLoss
from torch import Tensor

from components.errors import UsageError
from components.training.losses import Loss, SubBatch, TeacherTargets, build

MakeBatch = Callable[..., SubBatch]
Value = Callable[[SubBatch], Tensor]
Same = Callable[[SubBatch, Value, Value], bool]


def scores(student: float = 0.5, teacher: float = 2.0, teachers: Sequence[int] = ()) -> Loss:
    return build("scores", {"student_temperature": student, "teacher_temperature": teacher}, 8, teachers)


def peer(labels: Tensor, student: float = 0.5, teacher: float = 2.0) -> Value:
    model = SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")
    loss = DistillKLDivLoss(model, student_temperature=student, teacher_temperature=teacher)

    def value(batch: SubBatch) -> Tensor:
        assert batch.negatives is not None
        columns = [batch.queries, batch.positives, *batch.negatives.unbind(1)]
        return loss.compute_loss_from_embeddings(columns, labels)

    return value


def cosines(teacher: TeacherTargets) -> Tensor:
    assert teacher.negatives is not None
    rows = [
        [query @ candidate for candidate in (positive, *negatives)]
        for query, positive, negatives in zip(teacher.queries, teacher.positives, teacher.negatives, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("temperatures", [(0.5, 2.0), (1.0, 1.0), (0.05, 0.3)])
def test_it_is_the_divergence_of_sentence_transformers(
    make_batch: MakeBatch, same: Same, temperatures: tuple[float, float]
) -> None:
    reranked = torch.randn(6, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    batch = replace(make_batch(negatives=3), scores=reranked)
    student, teacher = temperatures
    assert same(batch, scores(student, teacher), peer(reranked, student, teacher))
    if student != teacher:
        assert not same(batch, scores(student, teacher), peer(reranked, teacher, student))
    assert not same(batch, scores(student, teacher), peer(reranked.flip(1), student, teacher))


def test_a_teachers_cosines_are_its_scores(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=2, teachers=[5])
    assert same(batch, scores(teachers=[5]), peer(cosines(batch.teachers[0])))


def test_a_rerankers_scores_come_before_the_teachers(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=2, teachers=[5])
    reranked = torch.arange(18, dtype=torch.float64).reshape(6, 3) % 5
    batch = replace(batch, scores=reranked)
    assert same(batch, scores(teachers=[5]), peer(reranked))
    assert not same(batch, scores(teachers=[5]), peer(cosines(batch.teachers[0])))


def test_several_teachers_are_averaged_as_distributions(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=2, teachers=[5, 7])
    probabilities = torch.stack([(cosines(teacher) / 0.1).softmax(1) for teacher in batch.teachers]).mean(0)
    loss = scores(0.5, 0.1, teachers=[5, 7])
    assert same(batch, loss, peer(probabilities.log(), 0.5, 1.0))
    assert not same(batch, loss, peer((cosines(batch.teachers[0]) + cosines(batch.teachers[1])) / 2, 0.5, 0.1))


def test_it_is_nothing_where_the_student_scores_as_the_teacher(make_batch: MakeBatch) -> None:
    batch = make_batch(negatives=2, teachers=[8])
    (teacher,) = batch.teachers
    alike = replace(batch, queries=teacher.queries, positives=teacher.positives, negatives=teacher.negatives)
    assert scores(0.3, 0.3, [8])(alike).item() == pytest.approx(0, abs=1e-12)
    assert scores(0.3, 0.3, [8])(batch).item() > 1e-3


def test_without_negatives_or_without_scores_it_says_what_to_do(make_batch: MakeBatch) -> None:
    with pytest.raises(UsageError, match="no hard negatives") as refusal:
        scores(teachers=[5])(make_batch(teachers=[5]))
    assert "Mine hard negatives" in refusal.value.remedy
    with pytest.raises(UsageError, match="neither a reranker nor a teacher"):
        scores()(make_batch(negatives=2))
    batch = make_batch(negatives=2, teachers=[5])
    with pytest.raises(UsageError, match="neither a reranker nor a teacher"):
        scores(teachers=[5])(replace(batch, teachers=(replace(batch.teachers[0], negatives=None),)))

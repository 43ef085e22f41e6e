from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
from torch import Tensor, nn
from torch.nn import functional

from components.training.losses import Loss, SubBatch, TeacherTargets, build

MakeBatch = Callable[..., SubBatch]
Value = Callable[[SubBatch], Tensor]
Same = Callable[[SubBatch, Value, Value], bool]


def vectors(*teachers: int) -> Loss:
    return build("vectors", {}, 8, teachers).double()


def columns(side: SubBatch | TeacherTargets) -> list[Tensor]:
    return [side.queries, side.positives, *([] if side.negatives is None else side.negatives.unbind(1))]


def distilled(projection: nn.Module | None = None, teacher: int = 0, metric: str = "cosine") -> Value:
    model = SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")
    peer = EmbedDistillLoss(model, distance_metric=metric)  # type: ignore[arg-type]
    peer.projection = projection  # type: ignore[assignment]
    return lambda batch: peer.compute_loss_from_embeddings(columns(batch), columns(batch.teachers[teacher]))


@pytest.mark.parametrize("negatives", [0, 3])
def test_it_is_the_embedding_distillation_of_sentence_transformers(
    make_batch: MakeBatch, same: Same, negatives: int
) -> None:
    batch = make_batch(negatives=negatives, teachers=[8])
    loss = vectors(8)
    assert not list(loss.parameters())
    assert same(batch, loss, distilled())
    assert not same(batch, loss, distilled(metric="mse"))


def test_it_is_one_minus_the_mean_cosine_and_nothing_at_the_teachers_own_vectors(make_batch: MakeBatch) -> None:
    batch = make_batch(teachers=[8])
    (teacher,) = batch.teachers
    cosines = [functional.cosine_similarity(batch.queries, teacher.queries).mean()]
    cosines += [functional.cosine_similarity(batch.positives, teacher.positives).mean()]
    assert vectors(8)(batch).item() == pytest.approx(1 - (cosines[0] + cosines[1]).item() / 2)
    assert vectors(8)(replace(batch, queries=teacher.queries, positives=teacher.positives)).item() == pytest.approx(0)


def test_a_teacher_of_another_dimension_is_met_through_a_learnt_projection(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=1, teachers=[5])
    loss = vectors(5)
    projection = nn.Linear(8, 5).double()
    projection.load_state_dict(
        {"weight": loss.state_dict()["projections.0.weight"], "bias": loss.state_dict()["projections.0.bias"]}
    )
    assert same(batch, loss, distilled(projection))
    assert not same(batch, loss, distilled(nn.Linear(8, 5).double()))
    loss(batch).backward()
    for parameter in loss.parameters():
        assert parameter.grad is not None and parameter.grad.any()


def test_several_teachers_count_the_same(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(teachers=[8, 5])
    loss = vectors(8, 5)
    projection = nn.Linear(8, 5).double()
    projection.load_state_dict(
        {"weight": loss.state_dict()["projections.1.weight"], "bias": loss.state_dict()["projections.1.bias"]}
    )
    assert same(batch, loss, lambda batch: (distilled()(batch) + distilled(projection, 1)(batch)) / 2)
    assert not same(batch, loss, distilled())


def test_a_teacher_without_vectors_of_the_negatives_teaches_the_rest(make_batch: MakeBatch) -> None:
    batch = make_batch(negatives=2, teachers=[8])
    (teacher,) = batch.teachers
    partly = replace(batch, teachers=(replace(teacher, negatives=None),))
    assert vectors(8)(partly).item() == vectors(8)(replace(partly, negatives=None)).item()
    assert vectors(8)(partly).item() != vectors(8)(batch).item()

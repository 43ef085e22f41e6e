from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.config import Config, Distillation, Teacher
from components.corpus import Item
from components.embedder import TorchEmbedder
from components.embedder.dual_encoder import DualEncoder, load, save
from components.embedder.towers import WordVectorsConfig, WordVectorsModel
from components.training.examples import Examples
from components.training.student import build_student, principal_components, train_student
from components.training.teacher import build_teacher
from components.training.teacher_embeddings import (
    TeacherEmbeddings,
    read_teacher_embeddings,
    write_teacher_embeddings,
)

Report = Callable[[int, Mapping[str, float]], None]
MakeDistillation = Callable[..., Distillation]


@pytest.fixture
def teacher(make_teacher: Callable[..., Teacher]) -> DualEncoder:
    return build_teacher(make_teacher())


@pytest.fixture
def embeddings(teacher: DualEncoder, examples: Examples, tmp_path: Path) -> TeacherEmbeddings:
    save(teacher, tmp_path / "teacher")
    write_teacher_embeddings(TorchEmbedder(tmp_path / "teacher"), examples, tmp_path / "embeddings")
    return read_teacher_embeddings(tmp_path / "embeddings")


def embed(encoder: DualEncoder, texts: list[str]) -> Tensor:
    with torch.inference_mode():
        vectors: Tensor = encoder(encoder.preprocess(texts))["sentence_embedding"]
    return vectors


def test_principal_components_are_the_nearest_of_their_size() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 4, generator=generator) @ torch.randn(4, 10, generator=generator)
    words, basis = principal_components(vectors, 4)
    torch.testing.assert_close(words @ basis.T, vectors, atol=1e-4, rtol=0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4), atol=1e-5, rtol=0)
    words, basis = principal_components(vectors, 2)
    left, values, right = torch.linalg.svd(vectors, full_matrices=False)
    torch.testing.assert_close(words @ basis.T, left[:, :2] * values[:2] @ right[:2], atol=1e-4, rtol=0)
    assert (words @ basis.T - vectors).norm() > 1


def test_the_student_understands_texts_as_the_teacher_does_from_the_start(
    make_distillation: MakeDistillation, teacher: DualEncoder, tmp_path: Path
) -> None:
    texts = [
        f"{first} {second}"
        for first in ("red", "sad", "happy", "one", "the")
        for second in ("cat", "dog", "tree", "face")
    ]
    student = build_student(make_distillation(), teacher, tmp_path)
    unlearned = build_student(make_distillation(), teacher, tmp_path)
    torch.manual_seed(0)
    vocabulary = len(teacher.tokenizer)
    unlearned.model.text_model = WordVectorsModel(WordVectorsConfig(vocabulary, make_distillation().text_dimension))
    nn.init.orthogonal_(unlearned.model.text_projection.weight)

    def agreement(encoder: DualEncoder) -> float:
        """Correlation of the deviations from the mean vector."""
        ours, theirs = (vectors - vectors.mean(0) for vectors in (embed(encoder, texts), embed(teacher, texts)))
        return float(functional.cosine_similarity(ours, theirs).mean())

    assert agreement(student) > 0.5
    assert abs(agreement(unlearned)) < 0.2


def test_tokens_without_a_meaning_weigh_nothing(
    make_distillation: MakeDistillation, teacher: DualEncoder, tmp_path: Path
) -> None:
    student = build_student(make_distillation(), teacher, tmp_path)
    words = student.state_dict()["model.text_model.embeddings.weight"]
    unknown = student.tokenizer.unk_token_id
    specials = [token for token in student.tokenizer.all_special_ids if token != unknown]
    assert not words[specials].any()
    assert words[max(specials) + 1 :].any(1).all()
    assert words[unknown].any(), "a text of unknown words only would have no direction"


def test_a_stopped_distillation_goes_on_to_the_same_weights(
    make_distillation: MakeDistillation,
    teacher: DualEncoder,
    embeddings: TeacherEmbeddings,
    examples: Examples,
    tmp_path: Path,
    stop_at: Callable[[int], Report],
) -> None:
    def run(folder: str, stop: int = -1, seed: int = 3) -> dict[str, Tensor]:
        student = train_student(
            make_distillation(seed=seed), teacher, embeddings, examples, tmp_path / folder, stop_at(stop)
        )
        return {name: value.clone() for name, value in student.state_dict().items()}

    whole = run("whole")
    for stop in range(1, 7):
        with pytest.raises(KeyboardInterrupt):
            run(str(stop), stop)
        resumed = run(str(stop))
        assert all(torch.equal(resumed[name], value) for name, value in whole.items()), stop
    other = run("seed", seed=4)
    assert not all(torch.equal(other[name], value) for name, value in whole.items())


def test_distillation_leaves_the_teacher_alone_and_brings_the_student_nearer(
    make_distillation: MakeDistillation,
    teacher: DualEncoder,
    embeddings: TeacherEmbeddings,
    examples: Examples,
    tmp_path: Path,
) -> None:
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    config = make_distillation(steps=100, augmentation=0.0, checkpoint_every=1000)
    tower = config.image_tower.model_copy(update={"widths": [5, 7], "depths": [1, 1]})  # nothing to take over
    config = config.model_copy(update={"image_tower": tower})
    told: list[Mapping[str, float]] = []
    student = train_student(
        config, teacher, embeddings, examples, tmp_path / "work", lambda _, metrics: told.append(metrics)
    )
    assert all(torch.equal(teacher.state_dict()[name], value) for name, value in before.items())
    assert {"loss/vectors", "loss/similarity", "loss/label"} < set(told[0])
    assert told[-1]["loss/vectors"] < told[0]["loss/vectors"] / 2
    save(student, tmp_path / "student")
    vectors = TorchEmbedder(tmp_path / "student").encode([Item(image=image) for image in examples.images])
    start = embed_images(build_student(config, teacher, tmp_path / "other"), examples)
    assert (vectors * embeddings.images).sum(1).mean() > (start * embeddings.images).sum(1).mean() + 0.2
    assert load(tmp_path / "student").description.matryoshka_dimensions == (24, 12)


def test_the_image_tower_starts_as_the_layers_it_shares(
    make_distillation: MakeDistillation, teacher: DualEncoder, tmp_path: Path
) -> None:
    config = make_distillation()
    alike = build_student(config, teacher, tmp_path / "alike").state_dict()
    own = {name: value for name, value in teacher.state_dict().items() if "vision_model" in name}
    assert all(torch.equal(alike[name], value) for name, value in own.items())
    wider = config.image_tower.model_copy(update={"widths": [config.image_tower.widths[0], 11]})
    other = build_student(config.model_copy(update={"image_tower": wider}), teacher, tmp_path / "other").state_dict()
    equal = {name for name in own if own[name].shape == other[name].shape and torch.equal(own[name], other[name])}
    assert any(".stem." in name for name in equal)
    assert not any(".stages.1." in name and own[name].ndim > 1 for name in equal)


@pytest.mark.parametrize("part", ["vectors", "similarity", "label"])
def test_a_loss_of_weight_zero_counts_nothing(
    part: str,
    make_distillation: MakeDistillation,
    teacher: DualEncoder,
    embeddings: TeacherEmbeddings,
    examples: Examples,
    tmp_path: Path,
) -> None:
    weight = {"vectors": "vector_weight", "similarity": "similarity_weight", "label": "label_weight"}[part]
    told: list[Mapping[str, float]] = []
    for value in (0.0, 1.0, 2.0):
        config = make_distillation(steps=1).model_copy(update={weight: value})
        train_student(
            config, teacher, embeddings, examples, tmp_path / str(value), lambda _, metrics: told.append(metrics)
        )
    losses = [metrics[f"loss/{part}"] for metrics in told]
    assert losses[0] == 0 and losses[2] == pytest.approx(2 * losses[1]) != 0


def test_the_shipped_student_has_at_most_a_quarter_of_the_teachers_parameters(params: Config, tmp_path: Path) -> None:
    teacher = build_teacher(params.teacher)
    vocabulary = len(teacher.tokenizer)
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).normal(size=(vocabulary, 384)).astype(np.float32))
    student = build_student(params.distillation, teacher, tmp_path)
    teachers, students = (sum(parameter.numel() for parameter in model.parameters()) for model in (teacher, student))
    assert 1_000_000 < students <= teachers / 4


def embed_images(encoder: DualEncoder, examples: Examples) -> np.ndarray:
    with torch.inference_mode():
        features = encoder(encoder.preprocess([{"image": image} for image in examples.images]))
    vectors: np.ndarray = features["sentence_embedding"].numpy()
    return vectors

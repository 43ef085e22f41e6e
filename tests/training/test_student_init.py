from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import WordLevel
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from components.embedder import TorchEmbedder
from components.embedder.dual_encoder import DualEncoder, load, save
from components.embedder.towers.text.word_vectors import principal_components, token_text
from components.training.config import TeacherEmbeddings as Settings
from components.training.examples import IMAGE, NONE, Examples
from components.training.recipe import TrainingData
from components.training.teacher_embeddings import (
    TeacherEmbeddings,
    read_teacher_embeddings,
    write_teacher_embeddings,
)

from .conftest import LEARNING, MakeRecipe, fit, same, stop_at, student_of, untrained, weights

AS_THEY_ARE = Settings(others=[], views=0, augmentation=1.0, no_flip_tasks=[], seed=0)


@pytest.fixture
def teacher(make_teaching: MakeRecipe) -> DualEncoder:
    return untrained(make_teaching())


@pytest.fixture
def embeddings(teacher: DualEncoder, examples: Examples, tmp_path: Path) -> TeacherEmbeddings:
    write_teacher_embeddings([TorchEmbedder(teacher)], examples, AS_THEY_ARE, tmp_path / "embeddings")
    return read_teacher_embeddings(tmp_path / "embeddings", examples)


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
    make_learning: MakeRecipe, teacher: DualEncoder, tmp_path: Path
) -> None:
    texts = [
        f"{first} {second}"
        for first in ("red", "sad", "happy", "one", "the")
        for second in ("cat", "dog", "tree", "face")
    ]

    def agreement(encoder: DualEncoder) -> float:
        """Correlation of the deviations from the mean vector."""
        ours, theirs = (vectors - vectors.mean(0) for vectors in (embed(encoder, texts), embed(teacher, texts)))
        return float(functional.cosine_similarity(ours, theirs).mean())

    assert agreement(student_of(teacher, make_learning(), tmp_path)) > 0.5
    assert abs(agreement(untrained(make_learning()))) < 0.2


def test_a_text_tower_of_its_own_is_kept(make_teaching: MakeRecipe, teacher: DualEncoder, tmp_path: Path) -> None:
    recipe = make_teaching(seed=4)
    before = {name: value for name, value in weights(untrained(recipe)).items() if "text" in name}
    after = weights(student_of(teacher, recipe, tmp_path))
    assert same({name: after[name] for name in before}, before) and not (tmp_path / "tokens.npy").exists()


def test_a_student_of_another_dimension_takes_over_the_words(
    make_learning: MakeRecipe, teacher: DualEncoder, tmp_path: Path
) -> None:
    """The teacher's basis does not fit; what words have in common does."""
    student = student_of(teacher, make_learning(dimension=16, matryoshka_dimensions=[16]), tmp_path)
    same_size = student_of(teacher, make_learning(), tmp_path)
    words = "model.text_model.embeddings.weight"
    assert torch.equal(student.state_dict()[words], same_size.state_dict()[words])
    assert embed(student, ["a red cat"]).shape == (1, 16)


def test_tokens_without_a_meaning_weigh_nothing(
    make_learning: MakeRecipe, teacher: DualEncoder, tmp_path: Path
) -> None:
    student = student_of(teacher, make_learning(), tmp_path)
    words = student.state_dict()["model.text_model.embeddings.weight"]
    tokenizer = student.tokenizer
    meaningful = {*tokenizer.get_vocab().values()} - {*tokenizer.all_special_ids} | {tokenizer.unk_token_id}
    assert {*words.any(1).nonzero().flatten().tolist()} == meaningful, "only unknown words have no direction else"


@pytest.mark.parametrize(
    ("token", "decoder"),
    [
        ("##cat", decoders.WordPiece()),
        ("cat", decoders.WordPiece()),
        ("Ġcat", decoders.ByteLevel()),
        ("▁cat", decoders.Metaspace()),
    ],
)
def test_marks_are_no_part_of_what_a_token_stands_for(token: str, decoder: decoders.Decoder) -> None:
    backend = Tokenizer(WordLevel({token: 0, "##": 1, "[UNK]": 2}, "[UNK]"))
    backend.decoder = decoder
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert token_text(token, tokenizer) == "cat"
    assert token_text("##", tokenizer) == "##", "a token of nothing but a mark stands for itself"


def test_the_teachers_words_are_asked_for_once(
    make_learning: MakeRecipe, teacher: DualEncoder, make_teaching: MakeRecipe, tmp_path: Path
) -> None:
    first = student_of(teacher, make_learning(), tmp_path).model.text_model.state_dict()
    other = untrained(make_teaching(seed=9))
    for parameter in other.model.text_model.parameters():
        parameter.data.normal_()
    again = student_of(other, make_learning(), tmp_path).model.text_model.state_dict()
    assert same(first, again), "a killed start goes on from what is stored"
    assert not same(first, student_of(other, make_learning(), tmp_path / "elsewhere").model.text_model.state_dict())


def test_the_image_tower_starts_as_the_layers_it_shares(
    make_learning: MakeRecipe, teacher: DualEncoder, tmp_path: Path
) -> None:
    alike = student_of(teacher, make_learning(), tmp_path / "alike").state_dict()
    own = {name: value for name, value in teacher.state_dict().items() if "vision_model" in name}
    assert all(torch.equal(alike[name], value) for name, value in own.items())
    wider = {"kind": "residual", "image_size": 16, "widths": [8, 11], "depths": [1, 1]}
    other = student_of(teacher, make_learning(image=wider), tmp_path / "other").state_dict()
    equal = {name for name in own if own[name].shape == other[name].shape and torch.equal(own[name], other[name])}
    assert any(".stem." in name for name in equal)
    assert not any(".stages.1." in name and own[name].ndim > 1 for name in equal)


def test_a_stopped_distillation_goes_on_to_the_same_weights(
    make_learning: MakeRecipe,
    teacher: DualEncoder,
    embeddings: TeacherEmbeddings,
    examples: Examples,
    tmp_path: Path,
) -> None:
    def run(folder: str, stop: int = -1, seed: int = 3) -> dict[str, Tensor]:
        recipe, work = make_learning(seed=seed), tmp_path / folder
        data = TrainingData(examples, teachers=embeddings)
        return weights(fit(recipe, data, work, stop_at(stop), module=student_of(teacher, recipe, work)))

    whole = run("whole")
    for stop in range(1, 7):
        with pytest.raises(KeyboardInterrupt):
            run(str(stop), stop)
        assert same(run(str(stop)), whole), stop
    assert not same(run("seed", seed=4), whole)


def test_distillation_leaves_the_teacher_alone_and_brings_the_student_nearer(
    make_learning: MakeRecipe,
    teacher: DualEncoder,
    embeddings: TeacherEmbeddings,
    examples: Examples,
    tmp_path: Path,
) -> None:
    before = weights(teacher)
    nothing_to_take_over = {"kind": "residual", "image_size": 16, "widths": [5, 7], "depths": [1, 1]}
    recipe = make_learning(steps=100, augmentation=0.0, checkpoint_every=1000, image=nothing_to_take_over)
    reported: list[Mapping[str, float]] = []
    student = student_of(teacher, recipe, tmp_path)
    images = np.full((10, 3), NONE, np.int64)
    images[:, IMAGE] = np.arange(10)
    (taught,) = embeddings(torch.from_numpy(images), torch.zeros(10, dtype=torch.long))

    def nearness(model: DualEncoder) -> float:
        with torch.inference_mode():
            vectors = model(model.preprocess([{"image": image} for image in examples.images]))["sentence_embedding"]
        return float((vectors * taught).sum(1).mean())

    start = nearness(student)
    fit(
        recipe,
        TrainingData(examples, teachers=embeddings),
        tmp_path / "work",
        lambda _, metrics: reported.append(metrics),
        module=student,
    )
    assert same(weights(teacher), before)
    assert {"loss/vectors", "loss/similarities", "loss/contrastive"} < set(reported[0])
    assert reported[-1]["loss/vectors"] < reported[0]["loss/vectors"] / 2
    save(student, tmp_path / "student")
    assert nearness(load(tmp_path / "student")) > start + 0.2
    assert load(tmp_path / "student").description.matryoshka_dimensions == (24, 12)


@pytest.mark.parametrize("name", ["vectors", "similarities", "contrastive"])
def test_a_loss_counts_by_its_weight(
    name: str,
    make_learning: MakeRecipe,
    teacher: DualEncoder,
    embeddings: TeacherEmbeddings,
    examples: Examples,
    tmp_path: Path,
) -> None:
    found: list[float] = []
    for weight in (1.0, 2.0):
        losses = [loss | ({"weight": weight} if loss["name"] == name else {}) for loss in LEARNING["losses"]]
        fit(
            make_learning(steps=1, phases=[{"losses": losses}]),
            TrainingData(examples, teachers=embeddings),
            tmp_path / str(weight),
            lambda _, metrics: found.append(metrics[f"loss/{name}"]),
            module=student_of(teacher, make_learning(), tmp_path),
        )
    assert found[1] == pytest.approx(2 * found[0]) and found[0] > 0

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.corpus import Item
from components.embedder import Embedder, TorchEmbedder, Vectors
from components.embedder.runtime import load_image, normalise, square
from components.training.augmentation import MIRROR, Augmentation
from components.training.config import TeacherEmbeddings as Settings
from components.training.encoder import TowersEncoder
from components.training.examples import IMAGE, NONE, Examples
from components.training.features import pixels
from components.training.recipe import TrainingData
from components.training.teacher_embeddings import (
    Lookup,
    TeacherEmbeddings,
    different_items,
    read_teacher_embeddings,
    targets_of,
    write_teacher_embeddings,
)

from .conftest import LEARNING, MakeRecipe, fit, of_tasks, student_of, untrained

AS_THEY_ARE = Settings(others=[], views=0, augmentation=1.0, no_flip_tasks=[], seed=0)
CHANGED = Settings(others=[], views=3, augmentation=1.0, no_flip_tasks=["LeftOf"], seed=0)
FREE = CHANGED.model_copy(update={"no_flip_tasks": []})


class Pixels:
    """A teacher whose vector of an image is the image, in a size of its own, from grey; texts are their letters."""

    name = "pixels"

    def __init__(self, size: int = 8) -> None:
        self.size = size
        self.dimension = 3 * size**2

    def encode(self, items: Sequence[Item]) -> Vectors:
        return normalise(np.stack([self._vector(item) for item in items]).astype(np.float32))

    def _vector(self, item: Item) -> np.ndarray:
        seed = sum(map(ord, f"{item.text}{item.instruction}"))
        letters = np.random.default_rng(seed).normal(size=self.dimension) if item.text or item.instruction else 0
        if item.image is None:
            return np.asarray(letters)
        return letters + seen(np.asarray(square(load_image(item.image), self.size), np.float32) / 255)


def seen(image: np.ndarray) -> np.ndarray:
    return (image - 0.5).ravel()


@pytest.fixture
def others(examples: Examples, tmp_path: Path) -> Examples:
    """The examples with other images: larger, wider than high, of slow changes of colour."""
    files = []
    random = np.random.default_rng(1)
    for number in range(10):
        small = random.integers(0, 256, (2, 3, 3), np.uint8)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC).save(files[-1])
    return replace(examples, images=files)


def written(teachers: Sequence[Embedder], examples: Examples, settings: Settings, directory: Path) -> TeacherEmbeddings:
    write_teacher_embeddings(teachers, examples, settings, directory)
    return read_teacher_embeddings(directory, examples)


def item(examples: Examples, row: Sequence[int]) -> Item:
    text, image, instruction = row
    return Item(
        text=examples.texts[text] if text != NONE else None,
        image=examples.images[image] if image != NONE else None,
        instruction=examples.texts[instruction] if instruction != NONE else None,
    )


def test_items_are_distinguished_however_many_texts_and_images_there_are() -> None:
    """With 21 bits for each part, the first two of these were one."""
    largest = 2**31 - 1
    known = np.unique(
        np.array(
            [[0, 2**21 - 1, NONE], [0, NONE, NONE], [1, 2**21, 5], [1, 2**22, 5], [largest, largest, largest]], np.int32
        ),
        axis=0,
    )
    lookup = Lookup(known)
    assert lookup(known.astype(np.int64)).tolist() == [0, 1, 2, 3, 4]
    assert lookup(np.array([[NONE, NONE, NONE], [1, 2**21, 6], [2, 2**21, 5], [0, NONE, 2**21]])).tolist() == [NONE] * 4


def test_vectors_are_those_of_encoding_directly(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    """Of queries and positives of every shape, for a teacher of our towers and another of another dimension."""
    teachers: list[Embedder] = [TorchEmbedder(untrained(make_teaching()), batch_size=4), Pixels()]
    found = written(teachers, examples, AS_THEY_ARE, tmp_path / "embeddings")
    assert found.dimensions == [24, 192] and found.changes is None
    rows = np.concatenate([*examples.queries.values(), *examples.positives.values()])
    order = np.random.default_rng(0).permutation(len(rows))
    views = torch.zeros(len(examples.images), dtype=torch.long)
    for teacher, vectors in zip(teachers, found(torch.from_numpy(rows[order]).long(), views), strict=True):
        direct = np.concatenate([teacher.encode([item(examples, row)]) for row in rows[order].tolist()])
        np.testing.assert_allclose(vectors.numpy(), direct, atol=1e-5)
        assert not np.allclose(vectors.numpy(), direct[::-1], atol=1e-2)


def test_each_different_item_is_asked_for_once(examples: Examples) -> None:
    items = different_items(examples)
    rows = np.concatenate([*examples.queries.values(), *examples.positives.values()])
    assert {*map(tuple, items.tolist())} == {*map(tuple, rows.tolist())}
    assert len(items) == len({*map(tuple, items.tolist())}) == 40 < len(rows) == 60


def test_an_item_that_no_teacher_saw_is_refused_and_what_is_absent_is_zero(examples: Examples, tmp_path: Path) -> None:
    found = written([Pixels()], examples, AS_THEY_ARE, tmp_path / "embeddings")
    views = torch.zeros(10, dtype=torch.long)
    with pytest.raises(KeyError, match="not asked"):
        found(torch.tensor([[3, 4, NONE]]), views)
    (vectors,) = found(torch.tensor([[3, NONE, NONE], [NONE, NONE, NONE]]), views)
    assert vectors.norm(dim=1).tolist() == pytest.approx([1, 0])


def test_a_training_set_without_images_is_taught_too(examples: Examples, tmp_path: Path) -> None:
    texts = examples.queries["Name"]
    words = Examples(examples.texts, [], {"Words": texts}, {"Words": np.roll(texts, 1, 0)})
    for settings in (AS_THEY_ARE, FREE):
        found = written([Pixels()], words, settings, tmp_path / str(settings.views))
        (vectors,) = found(torch.from_numpy(texts).long(), torch.zeros(0, dtype=torch.long))
        np.testing.assert_allclose(
            vectors.numpy(), Pixels().encode([item(words, row) for row in texts.tolist()]), atol=1e-6
        )


def test_a_stored_vector_is_of_the_very_image_that_the_student_sees(
    others: Examples, make_teaching: MakeRecipe, tmp_path: Path
) -> None:
    """The student changes the small image, the teacher saw the changed large one in its own size."""
    found = written([Pixels()], others, CHANGED, tmp_path / "embeddings")
    schedule = make_teaching(augmentation=0.0).schedule
    augmentation = Augmentation(others, schedule, found.changes)
    stored_pixels = torch.from_numpy(np.array(pixels(others.images, 32, tmp_path / "images.npy"))).float() / 255
    positions = torch.full((10, 3), NONE)
    positions[:, IMAGE] = torch.arange(10)
    nearest, shuffled = [], []
    for step in range(8):
        shown = augmentation(stored_pixels, torch.arange(10), step)
        halves = torch.nn.functional.interpolate(shown, size=(8, 8), mode="area").permute(0, 2, 3, 1).numpy()
        sees = normalise(np.stack([seen(image) for image in halves]).astype(np.float32))
        views = augmentation.views(step)
        (right,), (wrong,) = found(positions, views), found(positions, (views + 1) % 3)
        nearest.extend((sees * right.numpy()).sum(1))
        shuffled.extend((sees * wrong.numpy()).sum(1))
    assert np.mean(nearest) > 0.99 and min(nearest) > 0.97, "they differ by the resampling alone"
    assert np.mean(shuffled) < 0.9


def test_the_teacher_sees_a_view_as_the_student_would(
    examples: Examples, make_teaching: MakeRecipe, tmp_path: Path
) -> None:
    """Where the student is the teacher, its vectors of the changed images are the stored ones."""
    recipe = make_teaching(augmentation=0.0)
    teacher = untrained(recipe)
    found = written([TorchEmbedder(teacher)], examples, CHANGED, tmp_path / "embeddings")
    encoder = TowersEncoder(teacher, examples, found.changes)
    encoder.prepare(recipe.schedule, tmp_path)
    positions = torch.from_numpy(np.concatenate([*examples.queries.values(), *examples.positives.values()])).long()
    with torch.inference_mode():
        sees = encoder(positions, 5)
    (right,) = found(positions, encoder.views(5))
    (wrong,) = found(positions, (encoder.views(5) + 1) % 3)
    with_image = positions[:, IMAGE] != NONE
    assert (sees * right).sum(1).min() > 0.99
    errors = [(sees - one).norm(dim=1)[with_image].mean() for one in (right, wrong)]
    assert errors[0] < errors[1] / 3, errors


def test_stored_changes_keep_the_sides_of_no_flip_tasks(examples: Examples, tmp_path: Path) -> None:
    fixed = written([Pixels()], examples, CHANGED, tmp_path / "fixed").changes
    free = written([Pixels()], of_tasks(examples, "Name"), FREE, tmp_path / "free").changes
    assert fixed is not None and free is not None and fixed.shape == free.shape == (10, 3, 11)
    assert not fixed[..., MIRROR].any() and free[..., MIRROR].any()
    again = written([Pixels()], examples, CHANGED, tmp_path / "again").changes
    assert again is not None and torch.equal(again, fixed)
    assert not torch.equal(fixed[:, 0], fixed[:, 1]), "the views differ"


@pytest.mark.parametrize("settings", [AS_THEY_ARE, CHANGED])
def test_teachers_of_different_dimensions_teach_together(
    settings: Settings, make_teaching: MakeRecipe, make_learning: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    """What is learnt to bring the student to a teacher's space is no part of the student."""
    teacher = untrained(make_teaching())
    both = written([TorchEmbedder(teacher), Pixels()], examples, settings, tmp_path / "both")
    recipe = make_learning(steps=40, augmentation=0.0, checkpoint_every=1000)
    reported: list[dict[str, float]] = []
    student = student_of(teacher, recipe, tmp_path)
    names = set(student.state_dict())
    fit(
        recipe,
        TrainingData(examples, teachers=both),
        tmp_path / "work",
        lambda _, metrics: reported.append(dict(metrics)),
        module=student,
    )
    assert {f"loss/{loss['name']}" for loss in LEARNING["losses"]} <= reported[0].keys()
    assert reported[-1]["loss/vectors"] < reported[0]["loss/vectors"] * 0.75
    assert set(student.state_dict()) == names


def test_a_batch_is_taught_task_after_task(examples: Examples) -> None:
    queries, positives, negatives = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 2, 4)
    first, second = targets_of([(queries, positives, negatives), (queries, positives, None)], slice(2, 5))
    assert torch.equal(first.queries, queries[2:5]) and torch.equal(second.positives, positives[2:5])
    assert first.negatives is not None and torch.equal(first.negatives, negatives[2:5]) and second.negatives is None

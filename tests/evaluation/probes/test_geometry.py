from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from components.corpus import Item
from components.embedder import Vectors
from components.errors import EmbedlineError, UsageError
from components.evaluation import Suite
from components.evaluation.probes import geometry, probe
from components.evaluation.probes.geometry import first_direction, mean_cosine, uniformity
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder
from tests.evaluation.probes.conftest import (
    CONCEPTS,
    Measured,
    PartsEmbedder,
    WriteSuite,
    axis,
    numbered,
    scored,
    seeking,
    with_image,
)

WORDS = [f"word {number}" for number in range(CONCEPTS)]


@pytest.fixture
def suite(write_suite: WriteSuite) -> Suite:
    sets = {
        "Names": [with_image(n, WORDS, n) for n in range(CONCEPTS)],
        "Images": [seeking(f"keyword {n}", n) for n in range(CONCEPTS)],
    }
    return write_suite(sets)


def drawn(rows: int, dimension: int, centre: float = 0.0) -> Vectors:
    vectors = np.random.default_rng(0).normal(centre, 1, (rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_no_new_set_is_made(suite: Suite) -> None:
    assert probe("geometry").build(suite, Path()) is suite


@pytest.mark.parametrize("centre", [0.0, 0.5])
@pytest.mark.parametrize(("rows", "dimension"), [(2, 3), (300, 8), (700, 48)])
def test_the_numbers_are_those_of_their_definitions(rows: int, dimension: int, centre: float) -> None:
    vectors = drawn(rows, dimension, centre)
    exact = vectors.astype(np.float64)
    assert uniformity(vectors) == pytest.approx(np.log(np.mean(np.exp(-2 * pdist(exact) ** 2))), abs=1e-5)
    assert mean_cosine(vectors) == pytest.approx(np.mean(1 - pdist(exact, "cosine")), abs=1e-6)
    assert first_direction(vectors, "") == pytest.approx(PCA().fit(exact).explained_variance_ratio_[0], abs=1e-6)


def test_vectors_that_crowd_are_distinguished_from_vectors_that_spread() -> None:
    spread, crowded = drawn(500, 32), drawn(500, 32, 3.0)
    assert uniformity(spread) == pytest.approx(-4, abs=0.3) and uniformity(crowded) > -1
    assert mean_cosine(spread) == pytest.approx(0, abs=0.01) and mean_cosine(crowded) == pytest.approx(0.9, abs=0.02)
    line = np.stack([np.cos(angles := np.linspace(-0.1, 0.1, 50)), np.sin(angles), 0 * angles], axis=1)
    assert first_direction(line.astype(np.float32), "") > 0.99
    assert first_direction(spread, "") < 0.1


@pytest.mark.parametrize(("sign", "distance"), [(1, 0), (0, 2), (-1, 4)])
def test_alignment_is_the_squared_distance_of_a_query_and_its_answer(
    suite: Suite, measured: Measured, sign: int, distance: float
) -> None:
    other = PartsEmbedder(numbered, lambda number: sign * axis(number) if sign else axis((number + 1) % CONCEPTS))
    numbers = measured("geometry", suite, other)
    for kinds in ("all", "image to text", "text to image"):
        assert numbers[f"alignment, {kinds}"] == pytest.approx(distance, abs=1e-4)


def test_each_modality_is_measured_apart(suite: Suite, measured: Measured) -> None:
    """Texts are orthogonal, images crowd around a direction of their own."""
    numbers = measured("geometry", suite, PartsEmbedder(numbered, lambda number: axis(number) + 10 * axis(CONCEPTS)))
    pairs = CONCEPTS * 2 - 1
    assert numbers["mean cosine, text"] == pytest.approx(1 / pairs, abs=1e-3), "each concept has two texts"
    assert numbers["mean cosine, image"] > 0.98
    assert numbers["uniformity, image"] > -0.1 > numbers["uniformity, text"]
    assert numbers["mean cosine, text"] < numbers["mean cosine, all"] < numbers["mean cosine, image"]
    assert not [name for name in numbers if "both" in name or "video" in name]


def test_a_constant_model_is_refused(suite: Suite, measured: Measured) -> None:
    with pytest.raises(EmbedlineError, match="model: all items: all vectors are the same"):
        measured("geometry", suite, ConstantEmbedder())


def test_a_modality_that_collapsed_is_named(suite: Suite, measured: Measured) -> None:
    with pytest.raises(EmbedlineError, match="model: image items: all vectors are the same"):
        measured("geometry", suite, PartsEmbedder(numbered, lambda number: axis(0)))


def test_the_same_sample_is_drawn_each_time_and_stands_for_all(
    suite: Suite, measured: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = measured("geometry", suite, HashEmbedder())
    monkeypatch.setattr(geometry, "ITEMS", 40)
    monkeypatch.setattr(geometry, "PAIRS", 30)
    sample, again = (measured("geometry", suite, HashEmbedder()) for _ in range(2))
    assert sample == again != everything
    assert sample["alignment, all"] == pytest.approx(everything["alignment, all"], abs=0.4)
    assert sample["mean cosine, all"] == pytest.approx(everything["mean cosine, all"], abs=0.05)


def test_several_vectors_an_item_are_refused(suite: Suite, tmp_path: Path) -> None:
    scores, sides = scored(suite, HashEmbedder(), tmp_path / "cache")
    several = {
        name: tuple(replace(side, bounds=np.arange(len(side.positions) + 1)) for side in both)
        for name, both in sides.items()
    }
    for name in ("geometry", "mixed-modality"):
        with pytest.raises(UsageError, match=f"{name}: the model gives an item several vectors"):
            probe(name).measure(suite, scores, several)  # type: ignore[arg-type]


def test_items_are_distinguished_by_what_they_have() -> None:
    image = Path("a.png")
    items = [
        Item("text"),
        Item(image=image),
        Item("text", image),
        Item(video=(image,)),
        Item("t", None, (image,)),
    ]
    assert [geometry._modality(item) for item in items] == [
        "text", "image", "text and image", "video", "text and video",
    ]  # fmt: skip

from pathlib import Path

import numpy as np
import pytest

from components.corpus import Item
from components.errors import UsageError
from components.evaluation import Suite, read_suite
from components.evaluation.probes import probe
from components.evaluation.probes.modality_use import chance, without_image, without_text
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder, row
from tests.evaluation.probes.conftest import (
    CONCEPTS,
    IMAGES,
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
SEEING = PartsEmbedder(numbered, axis)
BLIND = PartsEmbedder(numbered)
READS_NOTHING = PartsEmbedder(lambda text: numbered(text) if text.startswith("word") else axis(0) * 0, axis)


@pytest.fixture
def suite(write_suite: WriteSuite) -> Suite:
    """`Needed` asks the same of every image, `Unneeded` tells the answer, `Plain` has no composed items."""
    sets = {
        "Needed": [row("What is it?", WORDS, [n], qry_img_path=IMAGES[n]) for n in range(CONCEPTS)],
        "Unneeded": [row(f"It is {n}. What?", WORDS, [n], qry_img_path=IMAGES[n]) for n in range(CONCEPTS)],
        "Plain": [with_image(n, WORDS, n) for n in range(CONCEPTS)],
    }
    return probe("modality-use").build(write_suite(sets), Path())


def test_only_sets_with_composed_items_are_taken(suite: Suite) -> None:
    variants = ("full", "without-image", "without-text")
    assert [each.name for each in suite.sets] == [
        f"{name}.{variant}" for name in ("Needed", "Unneeded") for variant in variants
    ]


def test_a_set_that_its_text_solves_is_flagged_and_one_that_needs_its_image_is_not(
    suite: Suite, measured: Measured
) -> None:
    numbers = measured("modality-use", suite, SEEING)
    assert numbers["Unneeded: full"] == numbers["Unneeded: without-image"] == 1
    assert numbers["Unneeded: solvable without image"] == 1
    assert numbers["Needed: full"] == 1 and numbers["Needed: without-image"] == pytest.approx(1 / CONCEPTS)
    assert numbers["Needed: solvable without image"] == 0
    assert numbers["Needed: without-text"] == numbers["Unneeded: without-text"] == 1
    assert numbers["share of sets solvable without image"] == 0.5
    assert numbers["drop without image"] == pytest.approx((1 - 1 / CONCEPTS) / 2)
    assert numbers["drop without text"] == 0


def test_a_model_that_ignores_images_is_shown_by_the_set_that_it_can_solve(suite: Suite, measured: Measured) -> None:
    numbers = measured("modality-use", suite, BLIND)
    assert numbers["Unneeded: solvable without image"] == 1
    assert numbers["drop without image"] == 0
    assert numbers["Needed: full"] == pytest.approx(1 / CONCEPTS)
    assert numbers["Needed: solvable without image"] == 0, "at chance there is nothing to be solvable"


def test_a_model_that_ignores_the_query_text_loses_all_without_images(suite: Suite, measured: Measured) -> None:
    numbers = measured("modality-use", suite, READS_NOTHING)
    assert numbers["share of sets solvable without image"] == 0
    assert numbers["drop without text"] == 0 and numbers["drop without image"] == pytest.approx(1 - 1 / CONCEPTS)


@pytest.mark.parametrize("embedder", [ConstantEmbedder(), HashEmbedder()])
def test_a_model_at_chance_flags_nothing(
    suite: Suite, measured: Measured, embedder: ConstantEmbedder | HashEmbedder
) -> None:
    assert measured("modality-use", suite, embedder)["share of sets solvable without image"] == 0


def test_chance_is_what_a_constant_model_scores(data: Path, tmp_path: Path) -> None:
    suite = read_suite(data)
    scores, _ = scored(suite, ConstantEmbedder(), tmp_path / "cache")
    for questions in suite.sets:
        assert chance(questions) == pytest.approx(scores.tasks[questions.name].score, abs=1e-12)
        shares = [np.bincount(pool.relevant[:, 0]) / len(pool.candidates) for pool in questions.pools]
        assert chance(questions) == pytest.approx(np.concatenate(shares).mean())


def test_composed_candidates_are_blanked_too(write_suite: WriteSuite, measured: Measured) -> None:
    """The candidates' images tell them apart, their texts do not."""
    rows = [seeking(f"number {n}", n, tgt_text=["a thing"] * CONCEPTS) for n in range(CONCEPTS)]
    suite = probe("modality-use").build(write_suite({"Set": rows}), Path())
    numbers = measured("modality-use", suite, SEEING)
    assert numbers["Set: full"] == numbers["Set: without-text"] == 1
    assert numbers["Set: without-image"] == pytest.approx(1 / CONCEPTS), "all candidates tie"


def test_blanking_leaves_the_instruction_and_what_has_one_part_only() -> None:
    image = Path("a.png")
    composed = Item("text", image, instruction="Find:")
    assert without_image(composed) == Item("text", instruction="Find:")
    assert without_text(composed) == Item(None, image, instruction="Find:")
    assert without_image(Item("text", video=(image, image))) == Item("text")
    for alone in (Item("text", instruction="Find:"), Item(image=image), Item(video=(image,))):
        assert without_image(alone) == without_text(alone) == alone


def test_data_without_composed_items_are_refused(write_suite: WriteSuite) -> None:
    base = write_suite({"Plain": [with_image(n, WORDS, n) for n in range(3)]})
    with pytest.raises(UsageError, match="modality-use: small has no set with items of both text and image"):
        probe("modality-use").build(base, Path())

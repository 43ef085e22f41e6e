from pathlib import Path

import numpy as np
import pytest

from components.embedder import Vectors
from components.errors import UsageError
from components.evaluation import Suite
from components.evaluation.probes import probe
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder, Rows, row
from tests.evaluation.probes.conftest import IMAGES, Measured, PartsEmbedder, WriteSuite, axis, numbered, with_image

SHOWN = 12
NUMBER, PARITY = "Which number is it?", "Is it odd or even?"
WORDS = [f"number {number}" for number in range(SHOWN)]
SIDES = ["even", "odd"]


def parity(text: str) -> Vectors:
    """Returns the axes of even and of odd behind those of the numbers shown, and those of numbers."""
    return axis(SHOWN + SIDES.index(text)) if text in SIDES else numbered(text)


class Obedient(PartsEmbedder):
    """Finds the number that an image shows or its parity, as the instruction says."""

    def __init__(self, heed: bool) -> None:
        super().__init__(parity, axis)
        self.heed = heed

    def vector(self, item):  # type: ignore[no-untyped-def]
        if self.heed and item.image and item.instruction == PARITY:
            return axis(SHOWN + int(np.argmax(super().vector(item))) % 2)
        return super().vector(item)


def number_rows(count: int = SHOWN) -> Rows:
    return [with_image(n, WORDS, n, qry_inst=NUMBER) for n in range(count)]


def parity_rows() -> Rows:
    return [with_image(n, SIDES, n % 2, qry_inst=PARITY) for n in range(SHOWN)]


@pytest.fixture
def suite(write_suite: WriteSuite) -> Suite:
    return probe("instruction-following").build(write_suite({"Number": number_rows(), "Parity": parity_rows()}), Path())


def test_every_image_is_asked_under_each_instruction_over_the_answers_of_all(suite: Suite) -> None:
    assert [each.name for each in suite.sets] == ["Number.answer", "Number.kind", "Parity.answer", "Parity.kind"]
    for questions in suite.sets:
        (pool,) = questions.pools
        assert {suite.items[position].text for position in pool.candidates} == {*WORDS, *SIDES}
        assert {suite.items[position].image for position in questions.queries} == {
            suite.root / "images" / image for image in IMAGES[:SHOWN]
        }
    relevant = {
        each.name: [[suite.items[pool.candidates[c]].text for q, c in pool.relevant if q == n] for n in range(SHOWN)]
        for each in suite.sets
        for pool in each.pools
    }
    assert relevant["Number.answer"] == [[word] for word in WORDS]
    assert relevant["Parity.answer"] == [[SIDES[n % 2]] for n in range(SHOWN)]
    assert all(sorted(row) == sorted(WORDS) for row in relevant["Number.kind"])
    assert all(sorted(row) == sorted(SIDES) for row in relevant["Parity.kind"])


def test_a_model_that_heeds_the_instruction_answers_all_and_one_that_ignores_it_is_at_chance(
    suite: Suite, measured: Measured
) -> None:
    heeds, ignores = (measured("instruction-following", suite, Obedient(heed)) for heed in (True, False))
    bound = "obedience of a model that ignores the instruction, at most"
    assert heeds["hit@1"] == heeds["obedience"] == heeds["images with every instruction answered"] == 1
    assert ignores["Number: hit@1"] == ignores["Number: obedience"] == 1
    assert ignores["Parity: hit@1"] == ignores["Parity: obedience"] == 0
    assert ignores["images with every instruction answered"] == 0
    assert ignores["obedience"] == ignores[bound] == heeds[bound] == 0.5


def test_obedience_is_not_correctness(suite: Suite, measured: Measured) -> None:
    """Answers each instruction with the wrong one of the right kind."""

    class Wrong(Obedient):
        def vector(self, item):  # type: ignore[no-untyped-def]
            right = int(np.argmax(super().vector(item)))
            if not item.image:
                return axis(right)
            return axis((right + 1) % SHOWN if right < SHOWN else SHOWN + (right + 1) % 2)

    numbers = measured("instruction-following", suite, Wrong(True))
    assert numbers["obedience"] == 1 and numbers["hit@1"] == 0


def test_a_constant_model_gets_what_ties_are_worth(suite: Suite, measured: Measured) -> None:
    numbers = measured("instruction-following", suite, ConstantEmbedder())
    answers = SHOWN + len(SIDES)
    assert numbers["hit@1"] == pytest.approx(1 / answers)
    assert numbers["images with every instruction answered"] == pytest.approx(1 / answers**2)
    assert numbers["Number: obedience"] == pytest.approx(SHOWN / answers)
    assert numbers["Parity: obedience"] == pytest.approx(2 / answers)


def test_what_a_hash_answers_is_near_chance(suite: Suite, measured: Measured) -> None:
    assert measured("instruction-following", suite, HashEmbedder())["hit@1"] < 0.35


def test_images_that_only_one_instruction_asks_about_are_left_out(write_suite: WriteSuite) -> None:
    base = write_suite({"Number": number_rows(5), "Parity": parity_rows()})
    suite = probe("instruction-following").build(base, Path())
    assert {len(each.queries) for each in suite.sets} == {5}


@pytest.mark.parametrize(
    "others",
    [
        [],
        [with_image(n, SIDES, n % 2, qry_inst=NUMBER) for n in range(SHOWN)],
        [row("odd?", SIDES, [n % 2], qry_img_path=IMAGES[n], qry_inst=PARITY) for n in range(SHOWN)],
        [with_image(n, WORDS, n, qry_inst=PARITY) for n in range(SHOWN)],
        [with_image(n + SHOWN, SIDES, n % 2, qry_inst=PARITY) for n in range(SHOWN)],
    ],
    ids=["one set", "same instruction", "another text", "same answers", "other images"],
)
def test_data_in_which_nothing_but_the_instruction_decides_nowhere_are_refused(
    write_suite: WriteSuite, others: Rows
) -> None:
    base = write_suite({"Number": number_rows()} | ({"Others": others} if others else {}))
    with pytest.raises(
        UsageError, match="instruction-following: small has no images that are asked about under several"
    ):
        probe("instruction-following").build(base, Path())

from itertools import permutations
from math import cos, sin, sqrt
from pathlib import Path

import numpy as np
import pytest

from components.embedder import Vectors
from components.errors import UsageError
from components.evaluation import Suite
from components.evaluation.probes import probe
from components.evaluation.probes.mixed_modality import FORMS, shares_among_first
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder, Rows
from tests.evaluation.probes.conftest import (
    CONCEPTS,
    Measured,
    PartsEmbedder,
    WriteSuite,
    axis,
    numbered,
    seeking,
    with_image,
)

WORDS = [f"name {number}" for number in range(CONCEPTS)]
KEYWORDS: Rows = [seeking(f"keyword {n}", n) for n in range(CONCEPTS)]
NAMES: Rows = [with_image(n, WORDS, n, qry_inst="Name it.") for n in range(CONCEPTS)]
OPEN = PartsEmbedder(numbered, axis)


def shifted(angle: float) -> PartsEmbedder:
    """Texts and images of a concept share its axis, and lie apart by what each modality adds."""

    def parts(concept: Vectors, modality: int) -> Vectors:
        return np.asarray(cos(angle) * concept + sin(angle) * axis(CONCEPTS + modality), np.float32)

    return PartsEmbedder(lambda text: parts(numbered(text), 0), lambda number: parts(axis(number), 1))


@pytest.fixture
def suite(write_suite: WriteSuite) -> Suite:
    return probe("mixed-modality").build(write_suite({"Keywords": KEYWORDS, "Names": NAMES}), Path())


def test_each_corpus_holds_each_concept_once_and_each_form_as_often(suite: Suite) -> None:
    assert [each.name for each in suite.sets] == [f"Keywords.{form}" for form in FORMS]
    for questions, form in zip(suite.sets, FORMS, strict=True):
        assert len(questions.pools) == 3 and len(questions.queries) == CONCEPTS
        for pool in questions.pools:
            found = [suite.items[position] for position in pool.candidates]
            forms = ["both" if item.text and item.image else "text" if item.text else "image" for item in found]
            assert {name: forms.count(name) for name in FORMS} == dict.fromkeys(FORMS, CONCEPTS // 3)
            concepts = [int(item.image.stem) if item.image else int(item.text.split()[1]) for item in found]
            assert sorted(concepts) == list(range(CONCEPTS))
            for query, place in pool.relevant:
                asked = suite.items[questions.queries[pool.rows[query]]]
                assert forms[place] == form and asked.text == f"keyword {concepts[place]}"


def test_a_model_without_a_gap_finds_every_form_and_prefers_none(suite: Suite, measured: Measured) -> None:
    numbers = measured("mixed-modality", suite, OPEN)
    assert [numbers[f"score, {form}"] for form in FORMS] == [1, 1, 1]
    assert [numbers[f"bias, {form}"] for form in FORMS] == pytest.approx([1, 1, 1])
    for pair in ("text to image", "text to both", "image to both"):
        assert numbers[f"gap, {pair}"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("angle", [0.2, 0.5, 1.0])
def test_the_gap_that_was_planted_is_measured(suite: Suite, measured: Measured, angle: float) -> None:
    numbers = measured("mixed-modality", suite, shifted(angle))
    assert numbers["gap, text to image"] == pytest.approx(sqrt(2) * sin(angle), abs=1e-3)
    assert numbers["gap, text to both"] == pytest.approx(numbers["gap, image to both"], abs=1e-6)


def test_a_gap_that_outweighs_the_concept_fills_the_first_ten_with_texts(suite: Suite, measured: Measured) -> None:
    """A third of the answers is image and text at once; these still come before all texts, and nothing else does."""
    numbers = measured("mixed-modality", suite, shifted(1.0))
    assert numbers["bias, text"] == pytest.approx(3 * (10 + 10 + 9) / 30)
    assert numbers["bias, image"] == 0 and numbers["bias, both"] == pytest.approx(3 * 1 / 30)
    assert [numbers[f"score, {form}"] for form in FORMS] == [1, 0, 1]
    mild = measured("mixed-modality", suite, shifted(0.2))
    assert mild["score, image"] == 1 and mild["bias, text"] < 3


def test_a_constant_model_is_at_chance_without_gap_or_bias(suite: Suite, measured: Measured) -> None:
    numbers = measured("mixed-modality", suite, ConstantEmbedder())
    for form in FORMS:
        assert numbers[f"score, {form}"] == pytest.approx(1 / CONCEPTS)
        assert numbers[f"bias, {form}"] == pytest.approx(1)
    assert numbers["gap, text to image"] == 0
    assert all(measured("mixed-modality", suite, HashEmbedder())[f"score, {form}"] < 0.2 for form in FORMS)


def test_a_query_is_never_the_text_that_stands_for_its_concept(write_suite: WriteSuite) -> None:
    same = [seeking(WORDS[n].upper() if n % 2 else f"keyword {n}", n) for n in range(CONCEPTS)]
    suite = probe("mixed-modality").build(write_suite({"Mixed": same, "Names": NAMES}), Path())
    for questions in suite.sets:
        texts = [suite.items[position].text or "" for position in questions.queries]
        assert len(texts) == CONCEPTS // 2 and all(text.startswith("keyword") for text in texts)


def test_the_set_that_names_most_images_is_taken_and_one_that_sorts_them_is_not(write_suite: WriteSuite) -> None:
    sets = {
        "Classes": [with_image(n, ["class 0", "class 1", "rare"], 2 if n == 5 else n % 2) for n in range(CONCEPTS)],
        "Few": [with_image(n, [f"other {n}" for n in range(CONCEPTS)], n) for n in range(9)],
        "Keywords": KEYWORDS,
        "Names": NAMES,
    }
    suite = probe("mixed-modality").build(write_suite(sets), Path())
    texts = {suite.items[c].text for each in suite.sets for pool in each.pools for c in pool.candidates}
    assert texts == {None, *WORDS}


@pytest.mark.parametrize(
    "sets",
    [
        {"Keywords": KEYWORDS},
        {"Names": NAMES},
        {"Keywords": [seeking(WORDS[n], n) for n in range(CONCEPTS)], "Names": NAMES},
        {"Keywords": KEYWORDS, "Names": NAMES[:2]},
        {"Keywords": [seeking("several", n) | {"label": [n, n + 1]} for n in range(5)], "Names": NAMES},
    ],
    ids=["no names", "no queries", "the same words", "too few concepts", "several answers"],
)
def test_data_without_concepts_in_several_forms_are_refused(write_suite: WriteSuite, sets: dict[str, Rows]) -> None:
    with pytest.raises(UsageError, match="mixed-modality: small has no images that one set asks for and another"):
        probe("mixed-modality").build(write_suite(sets), Path())


@pytest.mark.parametrize("first", [1, 3, 6])
def test_shares_are_the_means_over_all_orders_of_ties(first: int) -> None:
    generator = np.random.default_rng(first)
    scores = generator.integers(0, 3, (20, 6)).astype(float)
    members = np.eye(2)[generator.integers(0, 2, 6)]
    expected = []
    for row in scores:
        orders = [order for order in permutations(range(6)) if (np.diff(row[list(order)]) <= 0).all()]
        expected.append(np.mean([members[list(order[:first])].mean(axis=0) for order in orders], axis=0))
    assert shares_among_first(scores, members, first) == pytest.approx(np.array(expected))
    assert (
        shares_among_first(scores, members, first)
        != pytest.approx(np.array([members[np.argsort(-row, kind="stable")[:first]].mean(axis=0) for row in scores]))
        or first == 6
    ), "the order of the file decides"

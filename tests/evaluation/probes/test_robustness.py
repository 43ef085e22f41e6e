import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.corpus import Item
from components.embedder import Vectors
from components.embedder.runtime import load_image
from components.errors import DataInvalid, UsageError
from components.evaluation import Suite
from components.evaluation.probes import probe, robustness
from components.evaluation.probes.robustness import (
    ATTRIBUTES,
    IMAGES,
    TEXTS,
    WORD,
    case,
    insertion,
    perturbed,
    slope,
    typos,
)
from tests.evaluation.conftest import ConstantEmbedder, HashEmbedder, row
from tests.evaluation.probes.conftest import CONCEPTS, Measured, WriteSuite, scored, seeking, with_image
from tests.evaluation.probes.conftest import IMAGES as FILES

ANIMALS = [
    "ant",
    "bee",
    "cat",
    "dog",
    "eel",
    "fox",
    "gnu",
    "hen",
    "ibis",
    "jay",
    "koala",
    "lion",
    "mole",
    "newt",
    "owl",
]
WORDS = [f"{animal} Image" for animal in ANIMALS]
SENTENCE = "What is directly to the left of the yellow Adhesive bandage?"
Perturb = Callable[[str, float, np.random.Generator], str]


class WordsEmbedder:
    """A vector drawn from each text, in lower case if asked, and from the mean colour of each image."""

    name, dimension = "words", 64

    def __init__(self, folded: bool = False) -> None:
        self.folded = folded

    def encode(self, items: Sequence[Item]) -> Vectors:
        return np.stack([self.vector(item) for item in items])

    def vector(self, item: Item) -> Vectors:
        text = (item.text or "").casefold() if self.folded else item.text or ""
        colour = np.asarray(load_image(item.image)).mean((0, 1)) if item.image else np.zeros(3)
        return HashEmbedder.vector(self, Item(f"{text} {colour.round().tolist()}"))  # type: ignore[arg-type]


@pytest.fixture
def base(write_suite: WriteSuite) -> Suite:
    """`Texts` asks by text, `Images` by image, `Both` by both, `Some` by one or the other."""
    sets = {
        "Both": [row(word, WORDS, [n], qry_inst="", qry_img_path=FILES[n]) for n, word in enumerate(WORDS)],
        "Images": [seeking("", n, qry_img_path=FILES[n], qry_inst="", tgt_inst="") for n in range(CONCEPTS)],
        "Some": [row(WORDS[0], WORDS, [0]), with_image(1, WORDS, 1)],
        "Texts": [row(word, WORDS, [n], qry_inst="") for n, word in enumerate(WORDS)],
    }
    return write_suite(sets)


@pytest.fixture
def suite(base: Suite, tmp_path: Path) -> Suite:
    return probe("robustness").build(base, tmp_path / "perturbed")


def test_a_set_takes_the_perturbations_of_what_all_its_queries_have(suite: Suite) -> None:
    found = {each.name for each in suite.sets}
    texts = {f"Texts.{name}.{severity}" for name in TEXTS for severity in (1, 2, 3)}
    images = {f"Images.{name}.{severity}" for name in IMAGES for severity in (1, 2, 3)}
    both = {f"Both.{name}.{severity}" for name in (*TEXTS, *IMAGES) for severity in (1, 2, 3)}
    assert found == texts | images | both | {"Texts.unperturbed", "Images.unperturbed", "Both.unperturbed"}


def test_only_the_query_is_perturbed_and_only_in_the_modality_named(suite: Suite) -> None:
    by_name = {each.name: each for each in suite.sets}
    for name, questions in by_name.items():
        plain = by_name[f"{name.split('.')[0]}.unperturbed"]
        assert questions.pools is plain.pools
        perturbation = name.split(".")[1]
        now, before = ([suite.items[position] for position in each.queries] for each in (questions, plain))
        assert [item.instruction for item in now] == [item.instruction for item in before]
        texts = [item.text != original.text for item, original in zip(now, before, strict=True)]
        assert np.mean(texts) > 0.8 if perturbation in TEXTS else not any(texts)
        images = [item.image != original.image for item, original in zip(now, before, strict=True)]
        assert all(images) if perturbation in IMAGES else not any(images)


def test_unperturbed_queries_score_as_in_the_base(base: Suite, suite: Suite, tmp_path: Path) -> None:
    ours, theirs = (scored(each, HashEmbedder(), tmp_path / "cache")[0] for each in (suite, base))
    for name in ("Both", "Images", "Texts"):
        assert sorted(ours.tasks[f"{name}.unperturbed"].values) == sorted(theirs.tasks[name].values)


def test_what_a_model_does_not_look_at_costs_nothing_and_what_it_looks_at_does(
    suite: Suite, measured: Measured
) -> None:
    """One folds case and the other does not; both see an image's colour and nothing else of it."""
    folds = measured("robustness", suite, WordsEmbedder(folded=True))
    exact = measured("robustness", suite, WordsEmbedder())
    assert folds["Texts, case: drop per unit"] == 0 and exact["Texts, case: drop per unit"] > 0.3
    assert folds["Texts, typos: drop per unit"] > 0.3 and folds["Texts, insertion: drop per unit"] > 0.3
    for numbers in (folds, exact):
        assert numbers["Images, blur: drop per unit"] == numbers["Images, crop: drop per unit"] == 0, "one colour"
        assert numbers["Images, brightness: drop per unit"] > 0.3


def test_the_numbers_are_means_and_differences_of_the_scores(suite: Suite, tmp_path: Path) -> None:
    scores, sides = scored(suite, WordsEmbedder(), tmp_path / "cache")
    numbers = probe("robustness").measure(suite, scores, sides)
    slopes = []
    for perturbation in (*TEXTS, *IMAGES):
        sets = ["Both", "Texts" if perturbation in TEXTS else "Images"]
        means = [np.mean([scores.tasks[f"{name}.unperturbed"].score for name in sets])]
        for severity in (1, 2, 3):
            means.append(np.mean([scores.tasks[f"{name}.{perturbation}.{severity}"].score for name in sets]))
            assert numbers[f"{perturbation}: score at severity {severity}"] == pytest.approx(means[-1])
            assert numbers[f"{perturbation}: drop at severity {severity}"] == pytest.approx(means[0] - means[-1])
        slopes.append(np.linalg.lstsq(np.array([[1.0], [2], [3]]), means[0] - np.array(means[1:]))[0].item())
        assert numbers[f"{perturbation}: drop per unit"] == pytest.approx(slopes[-1])
        each = [numbers[f"{name}, {perturbation}: drop per unit"] for name in sets]
        assert np.mean(each) == pytest.approx(slopes[-1])
    assert numbers["drop per unit"] == pytest.approx(np.mean(slopes))


def test_a_model_that_ignores_everything_is_at_chance_and_loses_nothing(suite: Suite, measured: Measured) -> None:
    numbers = measured("robustness", suite, ConstantEmbedder())
    assert numbers["drop per unit"] == 0
    assert numbers["typos: score at severity 0"] == pytest.approx(1 / len(WORDS))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.6], 0.1),
        ([0.5, 0.5, 0.5, 0.5], 0),
        ([0.5, 0.5, 0.5, 0.36], 0.03),
        ([0.2, 0.3, 0.4, 0.5], -0.1),
    ],
)
def test_the_slope_is_that_of_a_line_through_the_origin(scores: list[float], expected: float) -> None:
    assert slope(np.array(scores)) == pytest.approx(expected)


def generator() -> np.random.Generator:
    return np.random.default_rng(7)


def distance(one: str, other: str) -> int:
    """Returns the number of letters to put in, leave out, exchange or swap with the next (optimal string alignment)."""
    table = np.add.outer(np.arange(len(one) + 1), np.arange(len(other) + 1))
    for i in range(1, len(one) + 1):
        for j in range(1, len(other) + 1):
            steps = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (one[i - 1] != other[j - 1])]
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                steps.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(steps)
    return int(table[-1, -1])


@pytest.mark.parametrize("text", [SENTENCE, "fox", "drapeau de pirate", "علم المملكة العربية السعودية", "海賊旗"])
def test_typos_grow_with_the_severity_and_each_goes_on_from_the_last(text: str) -> None:
    letters = sum(len(word[0]) for word in WORD.finditer(text))
    before = text
    for severity in (1, 2, 3):
        now = typos(text, 0.1 * severity, generator())
        assert 0 < distance(text, now) <= max(1, round(0.1 * severity * letters))
        assert distance(before, now) <= max(1, round(0.1 * letters)) + 1
        before = now


def test_insertions_leave_the_words_in_their_order() -> None:
    for count in (1, 2, 3):
        text = insertion(SENTENCE, count, generator())
        found = [attribute for attribute in ATTRIBUTES if f" {attribute}" in text]
        for attribute in found:
            text = text.replace(f" {attribute}", "", 1)
        assert len(found) == count and text == SENTENCE
    assert insertion("?!", 1, generator()).startswith("?! ")


def test_case_is_exchanged_in_a_share_of_the_letters_that_grows() -> None:
    changed: set[int] = set()
    for severity in (1, 2, 3):
        text = case(SENTENCE, severity / 3, generator())
        assert text.casefold() == SENTENCE.casefold()
        now = {place for place, pair in enumerate(zip(text, SENTENCE, strict=True)) if pair[0] != pair[1]}
        assert changed < now
        changed = now
    assert text == SENTENCE.swapcase()


@pytest.mark.parametrize("perturb", [typos, case, insertion])
@pytest.mark.parametrize("token", ["<|image_1|>", "<|vision_start|><|image_pad|><|vision_end|>", "<image>"])
def test_image_tokens_stay(perturb: Perturb, token: str) -> None:
    for severity in (0.1, 0.5, 1):
        assert token in perturb(f"{token}\n{SENTENCE}", severity, generator())


@pytest.mark.parametrize("text", ["", "7", "!?", "<image>"])
def test_a_text_without_words_stays(text: str) -> None:
    assert typos(text, 1, generator()) == case(text, 1, generator()) == text


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def after(image: Path, perturbation: str, severity: int) -> np.ndarray:
    item = perturbed(Item(image=image), perturbation, severity, image.parent / "perturbed")
    assert isinstance(item.image, Path)
    return np.asarray(load_image(item.image), float)


def test_images_lose_detail_width_or_light_in_proportion_to_the_severity(image: Path) -> None:
    original = np.asarray(load_image(image), float)
    spread = [np.std(after(image, "blur", severity)) for severity in (1, 2, 3)]
    assert np.std(original) > spread[0] > spread[1] > spread[2]
    for severity in (1, 2, 3):
        part = after(image, "crop", severity)
        assert part.shape == (40 - 4 * severity, 60 - 6 * severity, 3)
        windows = np.lib.stride_tricks.sliding_window_view(original, part.shape)
        assert (windows == part).all(axis=(-1, -2, -3)).any(), "no part of the image"
        assert after(image, "brightness", severity) == pytest.approx(original * (1 - severity / 4), abs=1)


def test_frames_are_perturbed_like_images(image: Path) -> None:
    video, alone = (
        perturbed(item, "blur", 1, image.parent) for item in (Item(video=(image, image)), Item(image=image))
    )
    assert video == Item(video=(alone.image, alone.image))  # type: ignore[arg-type]


def test_images_are_written_once_and_whole(base: Suite, tmp_path: Path) -> None:
    folder = tmp_path / "perturbed"
    first = probe("robustness").build(base, folder)
    files = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert all(file.name[0] != "." for file in files)
    assert probe("robustness").build(base, folder).digest == first.digest
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == files
    assert probe("robustness").build(base, tmp_path / "elsewhere").digest == first.digest


def test_another_image_under_the_same_name_is_another_suite(base: Suite, suite: Suite, tmp_path: Path) -> None:
    file = next((tmp_path / "perturbed").glob("*blur*"))
    Image.new("RGB", (12, 8), "white").save(file)
    assert probe("robustness").build(base, tmp_path / "perturbed").digest != suite.digest


def test_the_perturbations_are_the_same_in_another_process(base: Suite, suite: Suite, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from components.evaluation import read_suite;"
        "from components.evaluation.probes import probe;"
        "print(probe('robustness').build(read_suite(Path(sys.argv[1])), Path(sys.argv[2])).digest)"
    )
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code, base.root, tmp_path / seed], check=True, capture_output=True, text=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )  # fmt: skip
        assert found.stdout.strip() == suite.digest


def test_large_sets_are_sampled(write_suite: WriteSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "QUERIES_PER_SET", 5)
    base = write_suite({"Images": [seeking(f"word {n}", n) for n in range(CONCEPTS)]})
    suite = probe("robustness").build(base, tmp_path / "perturbed")
    assert {len(each.queries) for each in suite.sets} == {5}
    assert all(len(pool.candidates) == CONCEPTS for each in suite.sets for pool in each.pools)


def test_a_image_that_cannot_be_read_is_named(base: Suite, tmp_path: Path) -> None:
    (base.root / "images" / FILES[3]).write_bytes(b"no image")
    with pytest.raises(DataInvalid, match=rf"^\w+: query of row \d+: .*{FILES[3]}.*cannot be decoded"):
        probe("robustness").build(base, tmp_path / "perturbed")


def test_data_that_no_perturbation_fits_are_refused(write_suite: WriteSuite, tmp_path: Path) -> None:
    base = write_suite({"Some": [row("cat", WORDS, [0]), with_image(1, WORDS, 1)]})
    with pytest.raises(UsageError, match="robustness: small has no set whose queries all have a text, or all"):
        probe("robustness").build(base, tmp_path / "perturbed")

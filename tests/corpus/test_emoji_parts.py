from random import Random

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from components.corpus.sources.emoji.characters import Annotations, Emoji, read_annotations, read_emoji
from components.corpus.sources.emoji.evaluation import multilingual_sets
from components.corpus.sources.emoji.images import line_art_image
from components.corpus.sources.emoji.scenes import COLOURS, NUMBERS, Scene, compose
from components.corpus.sources.emoji.splits import Inventory, Splits

pytestmark = pytest.mark.system

SIZE = 128
THINGS = [Emoji((number,), "group", "subgroup", f"thing {number}") for number in range(12)]


@pytest.fixture(scope="module")
def by_name() -> dict[str, Emoji]:
    return {emoji.name: emoji for emoji in read_emoji()}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """Scenes of plain discs, each thing of a darkness of its own, so that they can be counted and distinguished."""
    images = {}
    for number, thing in enumerate(THINGS):
        rows, columns = np.mgrid[:96, :96] - 47.5
        disc = (rows**2 + columns**2 < 40**2)[..., None]
        pixels = np.where(disc, np.array([5 * number, 0, 0, 255]), 0).astype(np.uint8)
        images[thing] = Image.fromarray(pixels)
    return list(compose(THINGS, images, 120, SIZE, "test", Random(0)))


def things_in(scene: Scene) -> tuple[np.ndarray, int]:
    """Returns the number of the thing at each pixel (0 where there is none), and how many there are."""
    dark = np.asarray(scene.image).max(-1) < 60
    labels, count = ndimage.label(dark)
    return labels, int(count)


def test_all_fully_qualified_emoji_are_read(by_name: dict[str, Emoji]) -> None:
    assert len(by_name) == len(read_emoji()) == 3655
    assert by_name["grinning face"].group == "Smileys & Emotion"
    assert by_name["woman cook: dark skin tone"].skin_tones == ("dark skin tone",)


@pytest.mark.parametrize(
    ("name", "other", "concept", "neutral"),
    [
        ("waving hand", "waving hand: dark skin tone", True, True),
        ("woman cook", "woman cook: light skin tone", True, True),
        ("woman cook", "man cook", False, True),
        ("woman running", "person running", False, True),
        ("cat", "dog", False, False),
        ("woman", "man", False, True),
    ],
)
def test_variants_in_skin_tone_share_a_concept(
    name: str, other: str, concept: bool, neutral: bool, by_name: dict[str, Emoji]
) -> None:
    one, two = by_name[name], by_name[other]
    assert (one.concept == two.concept, one.neutral == two.neutral) == (concept, neutral)


@pytest.mark.parametrize(
    ("name", "gender"),
    [
        ("woman cook", "woman"),
        ("man running: light skin tone", "man"),
        ("cook", None),
        ("couple with heart: woman, man", None),
        ("cat", None),
    ],
)
def test_a_gender_is_known_where_there_is_one(name: str, gender: str | None, by_name: dict[str, Emoji]) -> None:
    assert by_name[name].gender == gender


def test_names_and_keywords_are_read_in_many_languages(by_name: dict[str, Emoji]) -> None:
    cat = by_name["cat"]
    assert read_annotations("de").name(cat) == "Katze" and read_annotations("fr").name(cat) == "chat"
    assert "pet" in read_annotations("en").keywords_of(cat)
    heart = by_name["red heart"]
    assert read_annotations("es").name(heart) == "corazón rojo", "its text has a variation selector"


def test_a_split_hangs_on_the_thing_and_the_seed_alone(by_name: dict[str, Emoji]) -> None:
    splits = Splits(seed=0, dev_fraction=0.05, eval_fraction=0.2, withheld_fraction=0.2)
    found = {name: splits.concept(emoji) for name, emoji in by_name.items()}
    shares = [list(found.values()).count(split) / len(found) for split in ("train", "dev", "eval")]
    assert shares == pytest.approx([0.75, 0.05, 0.2], abs=0.03)
    assert all(found[name] == found[name.split(": ")[0]] for name in found if name.endswith(": dark skin tone"))
    other = Splits(seed=1, dev_fraction=0.05, eval_fraction=0.2, withheld_fraction=0.2)
    assert found != {name: other.concept(emoji) for name, emoji in by_name.items()}
    without = Splits(seed=0, dev_fraction=0.0, eval_fraction=0.0, withheld_fraction=0.0)
    assert {without.concept(emoji) for emoji in by_name.values()} == {"train"}


def test_asked_keywords_are_not_trained_ones() -> None:
    inventory = Inventory(read_emoji(), {"en": read_annotations("en")}, Splits(0, 0.05, 0.2, 0.2))
    asked = 0
    for emoji in inventory.concepts:
        words = {split: set(inventory.keywords(emoji, split)) for split in ("train", "dev", "eval")}  # type: ignore[arg-type]
        assert (
            not words["train"] & words["dev"]
            and not words["train"] & words["eval"]
            and not words["dev"] & words["eval"]
        )
        assert emoji.name not in set.union(*words.values())
        asked += bool(words["eval"])
    assert asked > 300


def test_a_name_that_two_things_share_in_one_language_is_asked_in_none() -> None:
    things = [Emoji((ord(letter),), "group", "subgroup", letter) for letter in "abcdef"]
    english = {letter: f"thing {letter}" for letter in "abcdef"}
    german = {letter: f"Ding {letter}" for letter in "abcde"} | {"b": "Bank", "d": "bank"}
    inventory = Inventory(
        things, {"en": Annotations(english, {}), "de": Annotations(german, {})}, Splits(0, 0.0, 1.0, 0.0)
    )
    sets = {task.name: task for task in multilingual_sets(inventory, {"en": "IND", "de": "OOD"})}
    assert sorted(text for text, _ in sets["en"].queries) == ["thing a", "thing c", "thing e"]
    assert sorted(text for text, _ in sets["de"].queries) == ["Ding a", "Ding c", "Ding e"]
    assert len(sets["de"].candidates) == 6, "what is not asked for stays among the candidates"
    assert (sets["en"].candidates, sets["en"].relevant) == (sets["de"].candidates, sets["de"].relevant)
    alone = next(multilingual_sets(inventory, {"en": "IND"}))
    assert len(alone.queries) == 6


def test_line_art_is_drawn_only_where_the_font_has_the_sign(by_name: dict[str, Emoji]) -> None:
    cat = line_art_image(by_name["cat"], 48)
    assert cat is not None and cat.size == (48, 48) and cat.convert("RGB").getextrema() == ((0, 0), (0, 0), (0, 0))
    assert line_art_image(by_name["family: man, woman, boy"], 48) is None
    assert line_art_image(Emoji((0x10FFFE,), "", "", "nothing"), 48) is None


def test_boxes_hold_their_thing_and_nothing_else(scenes: list[Scene]) -> None:
    boxed = [scene for scene in scenes if scene.boxes]
    assert len(boxed) == 80
    for scene in boxed:
        labels, count = things_in(scene)
        assert count == len(scene.boxes)
        for thing, (left, upper, right, lower) in scene.boxes:
            assert 0 <= left < right <= SIZE and 0 <= upper < lower <= SIZE
            inside = set(np.unique(labels[upper:lower, left:right])) - {0}
            assert len(inside) == 1
            assert (labels == inside.pop())[upper:lower, left:right].sum() > 0.3 * (right - left) ** 2
            middle = scene.image.getpixel(((left + right) // 2, (upper + lower) // 2))
            assert middle == (5 * THINGS.index(thing), 0, 0)
        outside = labels.copy()
        for _, (left, upper, right, lower) in scene.boxes:
            outside[upper:lower, left:right] = 0
        assert not outside.any()


def test_answers_about_scenes_are_right(scenes: list[Scene]) -> None:
    asked = set()
    for scene in scenes:
        _, count = things_in(scene)
        lefts = {thing.name: box[0] for thing, box in scene.boxes}
        order = sorted(lefts, key=lefts.__getitem__)
        for question in scene.questions:
            asked.add(question.skill)
            if question.skill == "what":
                assert [question.answer] == list(lefts)
            elif question.skill == "colour":
                assert scene.image.getpixel((SIZE - 1, SIZE - 1)) == COLOURS[question.answer]
            elif question.skill == "count":
                assert NUMBERS.index(question.answer) + 1 == count
            else:
                right = question.text.removeprefix("What is directly to the left of the ").removesuffix("?")
                assert order[order.index(right) - 1] == question.answer and order.index(right) > 0
    assert asked == {"what", "colour", "count", "left"}


def test_scenes_hang_on_their_seed_alone() -> None:
    images = {thing: Image.new("RGBA", (96, 96), "black") for thing in THINGS}
    first, again, other = (
        [scene.image.tobytes() for scene in compose(THINGS, images, 9, SIZE, "x", Random(seed))] for seed in (1, 1, 2)
    )
    assert first == again != other

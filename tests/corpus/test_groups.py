"""Which captions and images belong together; splits never separate them, and none is another's wrong candidate."""

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from components.corpus import ingest, read_pairs, read_queries
from components.corpus.config import SourceSettings
from components.corpus.groups import Looks, Sets, labels_of, look_the_same, same_caption, small

MakeConfig = Callable[..., SourceSettings]


def drawing(seed: int, size: int = 96) -> Image.Image:
    """A smooth image with shapes, as photographs are; every seed gives another one."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def found_alike(folder: Path, contents: list[bytes]) -> set[tuple[int, int]]:
    looks = Looks()
    for number, content in enumerate(contents):
        (folder / str(number)).write_bytes(content)
        looks.add(content, folder / str(number))
    return set(looks.near_duplicates())


def test_sets_are_joined_as_in_a_graph() -> None:
    random = np.random.default_rng(0)
    edges = random.integers(0, 60, (40, 2)).tolist()
    sets = Sets(60)
    of = list(range(60))
    for one, other in edges:
        assert sets.join(one, other) == (of[one] != of[other])
        of = [of[one] if each == of[other] else each for each in of]
    joined = [[sets.find(one) == sets.find(other) for one in range(60)] for other in range(60)]
    assert joined == [[of[one] == of[other] for one in range(60)] for other in range(60)]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A red  bird", "a RED bird ", True),
        ("Straße", "STRASSE", True),
        ("a red bird", "a red bird.", False),
        ("a red bird", "a bird", False),
    ],
)
def test_captions_are_equal_but_for_case_and_white_space(one: str, other: str, same: bool) -> None:
    assert (same_caption(one) == same_caption(other)) == same


def test_new_sizes_and_encodings_of_an_image_are_found_among_many(tmp_path: Path) -> None:
    originals = [drawing(seed) for seed in range(150)]
    copies = [
        encoded(originals[3], "JPEG", quality=80),
        encoded(originals[50].resize((64, 64), Image.Resampling.LANCZOS)),
        encoded(originals[149], "WEBP", quality=85),
    ]
    assert found_alike(tmp_path, [*map(encoded, originals), *copies]) == {(3, 150), (50, 151), (149, 152)}


def test_images_that_people_tell_apart_are_not_joined(tmp_path: Path) -> None:
    image = drawing(1)
    marked = image.copy()
    marked.paste((255, 0, 0), (40, 40, 52, 52))
    moved = Image.new("RGB", image.size, "white")
    moved.paste(image, (9, 0))
    others = [
        marked,
        moved,
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        ImageEnhance.Brightness(image).enhance(0.8),
        ImageEnhance.Color(image).enhance(0.5),
        image.filter(ImageFilter.GaussianBlur(12)),
        Image.merge("RGB", image.split()[::-1]),
    ]
    assert found_alike(tmp_path, [encoded(each) for each in (image, *others)]) == set()


def test_images_of_one_colour_are_joined_only_where_they_are_equal(tmp_path: Path) -> None:
    plain = [Image.new("RGB", (9, 9), colour) for colour in ((200, 0, 0), (201, 0, 0))]
    assert found_alike(tmp_path, [encoded(plain[0]), encoded(plain[1]), encoded(plain[0], "GIF")]) == {(0, 2)}


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert look_the_same(small(encoded(clear)), small(encoded(Image.new("RGB", (20, 20), "white"))))
    assert not look_the_same(small(encoded(clear)), small(encoded(Image.new("RGB", (20, 20), "black"))))


@pytest.mark.parametrize(
    ("sharing", "images", "labels"),
    [
        ({0: 5, 1: 5}, 250, {0, 1}),
        ({0: 5, 1: 4}, 250, set()),  # the other one is too rare, and one label tells nothing apart
        ({0: 5, 1: 5}, 251, set()),  # below 2 %
        ({0: 6, 1: 6, 2: 1}, 251, {0, 1}),
        ({}, 0, set()),
    ],
)
def test_a_label_is_a_caption_of_very_many_images(sharing: dict[int, int], images: int, labels: set[int]) -> None:
    pairs = [(number, caption) for caption, count in sharing.items() for number in range(count)]
    assert labels_of(pairs * 2, images) == labels, "rows that repeat count once"


def table(folder: Path, rows: list[tuple[int, str]]) -> Path:
    """Writes a table of `(drawing, text)`; drawings from 1000 on are new encodings of those from 0 on."""
    folder.mkdir(exist_ok=True)
    for seed in {seed for seed, _ in rows}:
        content = encoded(drawing(seed % 1000), "JPEG", quality=90) if seed >= 1000 else encoded(drawing(seed))
        (folder / f"{seed}.img").write_bytes(content)
    lines = (json.dumps({"image": f"{seed}.img", "text": text}) + "\n" for seed, text in rows)
    (folder / "pairs.jsonl").write_text("".join(lines))
    return folder / "pairs.jsonl"


def sides(data: Path) -> tuple[dict[bytes, set[str]], dict[str, set[str]]]:
    """Returns in which splits every image (by its bytes) and every caption occurs."""
    images: dict[bytes, set[str]] = {}
    texts: dict[str, set[str]] = {}
    held = (
        (split, pair)
        for split in ("dev", "eval")
        for task in ("shop_t2i", "shop_i2t")
        for query in read_queries(data, split, task)
        for pair in [(query.item, *query.candidates)]
    )
    for split, items in (*held, *(("train", (pair.query, pair.positive)) for pair in read_pairs(data))):
        for item in items:
            if isinstance(item.image, Path):
                images.setdefault(item.image.read_bytes(), set()).add(split)
            elif item.text:
                texts.setdefault(same_caption(item.text), set()).add(split)
    return images, texts


def test_splits_never_separate_what_belongs_together(tmp_path: Path, config: MakeConfig) -> None:
    """Forty chains: two images with one caption, of which one has another caption and looks like a third image."""
    rows = []
    for number in range(40):
        pair = (number, f"Thing {number}"), (number + 40, f"thing  {number}")
        rows += [*pair, (number + 40, f"other {number}"), (number + 1040, f"copy {number}")]
    data = tmp_path / "data"
    ingest(config("table", table(tmp_path / "shop", rows), eval_fraction=0.3, dev_fraction=0.3), data)
    images, texts = sides(data)
    assert all(len(splits) == 1 for splits in (*images.values(), *texts.values()))
    assert {split for splits in images.values() for split in splits} == {"train", "dev", "eval"}
    for number in range(40):
        chain = {frozenset(texts[f"{kind} {number}"]) for kind in ("thing", "other", "copy")}
        assert len(chain) == 1
    for query in read_queries(data, "eval", "shop_t2i"):
        number = (query.item.text or "").split()[-1]
        right = {query.candidates[position].image for position in query.relevant}
        expected = {encoded(drawing(int(number))), encoded(drawing(int(number) + 40))}
        expected.add(encoded(drawing(int(number) + 40), "JPEG", quality=90))
        assert {image.read_bytes() for image in right if isinstance(image, Path)} == expected
    for query in read_queries(data, "eval", "shop_i2t"):
        captions = [same_caption(candidate.text or "") for candidate in query.candidates]
        assert len(set(captions)) == len(captions), "no candidate says what another one says"
        right = {captions[position].split()[-1] for position in query.relevant}
        assert len(right) == 1 and len(query.relevant) == 3


def test_what_was_joined_is_reported(tmp_path: Path, config: MakeConfig) -> None:
    rows = [(number, f"thing {number}") for number in range(30)]
    rows += [(1003, "a copy"), (40, "Thing 7"), (41, "thing 7")]
    ingest(config("table", table(tmp_path / "shop", rows)), tmp_path / "data")
    report = json.loads((tmp_path / "data" / "leaks.json").read_text())
    assert report["images_with_another_ones_caption"]["count"] == 3
    (example,) = report["images_with_another_ones_caption"]["examples"]
    assert same_caption(example["caption"]) == "thing 7" and len(example["images"]) == 3
    assert report["images_like_another"]["count"] == 2 and len(report["images_like_another"]["examples"]) == 1
    assert report["groups"] == len(rows) - 3 and report["labels"]["count"] == 0


def test_captions_of_very_many_images_are_labels_of_a_classification_set(tmp_path: Path, config: MakeConfig) -> None:
    rows = [(number, ("cat", "Dog", "dog")[number % 3]) for number in range(60)]
    rows += [(number, f"thing {number}") for number in range(60, 90)]
    data = tmp_path / "data"
    manifest = ingest(config("table", table(tmp_path / "shop", rows), eval_fraction=0.4), data)
    assert manifest.tasks.eval.keys() == {"shop_t2i", "shop_i2t", "shop_label"}
    assert manifest.tasks.eval["shop_label"].meta_task == "classification"
    assert manifest.tasks.train.keys() == manifest.tasks.eval.keys()
    truth = {encoded(drawing(number)): same_caption(text) for number, text in rows[:60]}
    chosen = Counter()
    for query in read_queries(data, "eval", "shop_label"):
        assert isinstance(query.item.image, Path)
        captions = [same_caption(candidate.text or "") for candidate in query.candidates]
        (position,) = query.relevant
        assert sorted(captions) == ["cat", "dog"]
        assert captions[position] == truth[query.item.image.read_bytes()]
        chosen[captions[position]] += 1
    assert len(chosen) == 2 and sum(chosen.values()) + manifest.tasks.train["shop_label"] == 60
    assert not any((pair.query.text or "").startswith(("cat", "dog", "Dog")) for pair in read_pairs(data, "shop_t2i"))


def test_the_order_of_the_rows_changes_no_split(tmp_path: Path, config: MakeConfig) -> None:
    rows = [(number, f"thing {number // 2}") for number in range(40)]

    def held_out(rows: list[tuple[int, str]]) -> set[str | None]:
        ingest(config("table", table(tmp_path / "shop", rows), eval_fraction=0.4), tmp_path / "data")
        return {query.item.text for query in read_queries(tmp_path / "data", "eval", "shop_t2i")}

    assert held_out(rows) == held_out(rows[::-1]) != set()

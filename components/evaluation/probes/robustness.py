"""Robustness: how much of the score is lost when a query's text or image is perturbed, and how fast.

A sample of each set is asked as it is and at three severities of each perturbation that all its queries can take. Harm
grows in proportion to the severity, and a higher severity goes on where a lower one stops. What is perturbed depends on
the content alone, so the same query is perturbed alike on any machine.

The drop per unit is the slope of the least-squares line through the origin over (severity, score lost), after the
corruptions of D. Hendrycks and T. Dietterich 2019, Benchmarking Neural Network Robustness to Common Corruptions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from components.corpus.item import ImageSource, Item
from components.embedder.runtime import UnreadableImage, load_image
from components.errors import DataInvalid
from components.evaluation.derived import REMEDY, as_it_is, derived_suite, derived_task, questions_of
from components.evaluation.sets import Collection, EvaluationSet, Suite
from components.evaluation.vectors import Side
from components.files import atomic_file
from components.scores import Scores

NAME = "robustness"
QUERIES_PER_SET = 100
SEVERITIES = (1, 2, 3)
WORD = re.compile(r"(?<![\w<|/])[^\W\d_]{2,}(?![\w>|/])")
"""Letters on their own: image tokens, paths and mark-up stay what they are."""
ATTRIBUTES = (
    "seen this morning", "of average size", "made last year", "as everybody knows", "kept by a friend", "of some worth",
    "near the window", "often talked about",
)  # fmt: skip
Generator = np.random.Generator


class TextPerturbation(NamedTuple):
    unit: float
    apply: Callable[[str, float, Generator], str]


class ImagePerturbation(NamedTuple):
    unit: float
    apply: Callable[[Image.Image, float, Generator], Image.Image]


def build(base: Suite, images: Path) -> Suite:
    """Returns the perturbed sets, named `SET.PERTURBATION.SEVERITY`, and `SET.unperturbed`, all of the same queries.

    Perturbed images are written to the folder `images`, those that are there already are taken. Raises
    `DataInvalid` if an image cannot be read, `UsageError` if no set has queries to perturb.
    """
    collection, sets = Collection(REMEDY), []
    for questions in base.sets:
        sample = _sample(len(questions.queries))
        task = derived_task(questions.task, "unperturbed", len(sample))
        asked = list(questions_of(base, questions, sample))
        taken = _taken([query.item for query in asked])
        if not taken:
            continue
        plain = collection.from_queries(_name(questions.name), task, asked, as_it_is, as_it_is)
        sets.append(plain)
        for perturbation in taken:
            for severity in SEVERITIES:
                try:
                    items = [perturbed(query.item, perturbation, severity, images) for query in asked]
                except DataInvalid as error:
                    raise base.unreadable(questions.queries[sample]) or error from error.__cause__
                sets.append(_asking(plain, items, collection, questions.name, perturbation, severity))
    made = {
        image
        for item in collection.positions
        for image in (item.image, *item.video)
        if isinstance(image, Path) and image.parent == images
    }
    return derived_suite(NAME, base, collection, sets, "no set whose queries all have a text, or all an image", made)


def measure(suite: Suite, scores: Scores, sides: Mapping[str, tuple[Side, Side]]) -> dict[str, float]:
    """Returns what a unit of severity costs overall and by perturbation; the score at each severity, 0 is unperturbed,
    and the drop from it; and the drop per unit of each set. All are means over the sets that take a perturbation."""
    bases = [name.removesuffix(_name("")) for name in scores.tasks if name.endswith(_name(""))]
    summary: dict[str, float] = {}
    details: dict[str, float] = {}
    slopes = []
    for perturbation in (*TEXTS, *IMAGES):
        found = {
            base: [scores.tasks[_name(base, perturbation, severity)].score for severity in (0, *SEVERITIES)]
            for base in bases
            if _name(base, perturbation, 1) in scores.tasks
        }
        if not found:
            continue
        means = np.mean(list(found.values()), axis=0)
        slopes.append(slope(means))
        summary[f"{perturbation}: drop per unit"] = slopes[-1]
        for severity, mean in enumerate(means):
            summary[f"{perturbation}: score at severity {severity}"] = float(mean)
        for severity in SEVERITIES:
            summary[f"{perturbation}: drop at severity {severity}"] = float(means[0] - means[severity])
        details |= {f"{base}, {perturbation}: drop per unit": slope(np.array(row)) for base, row in found.items()}
    return {"drop per unit": float(np.mean(slopes))} | summary | details


def slope(scores: np.ndarray) -> float:
    """Returns the score lost per unit of severity, of scores at severities 0, 1, 2, ..."""
    severities = np.arange(len(scores))
    return float(severities @ (scores[0] - scores) / (severities @ severities))


def perturbed(item: Item, perturbation: str, severity: int, images: Path) -> Item:
    """Returns the item with its text, or its image and its frames, perturbed."""
    if perturbation in TEXTS:
        unit, apply = TEXTS[perturbation]
        text = item.text or ""
        return replace(item, text=apply(text, unit * severity, _generator(text.encode())))
    image = _written(item.image, perturbation, severity, images) if item.image else None
    frames = tuple(_written(frame, perturbation, severity, images) for frame in item.video)
    return replace(item, image=image, video=frames)


def typos(text: str, share: float, generator: Generator) -> str:
    """Returns the text with typos, one per `1 / share` letters: letters swapped, left out or doubled.

    A text without a word of two letters stays what it is.
    """
    letters = sum(len(word[0]) for word in WORD.finditer(text))
    for _ in range(max(1, round(share * letters))):
        places = [place for word in WORD.finditer(text) for place in range(word.start(), word.end() - 1)]
        if not places:
            break
        place = int(generator.choice(places))
        pair = text[place : place + 2]
        variants = sorted({pair[::-1], pair[1], pair[0] + pair} - {pair})
        text = text[:place] + str(generator.choice(variants)) + text[place + 2 :]
    return text


def insertion(text: str, count: float, generator: Generator) -> str:
    """Returns the text with `count` irrelevant attributes, each behind a word drawn at random or, without one, at the
    end."""
    for attribute in generator.permutation(ATTRIBUTES)[: int(count)]:
        ends = [word.end() for word in WORD.finditer(text)] or [len(text)]
        place = int(generator.choice(ends))
        text = f"{text[:place]} {attribute}{text[place:]}"
    return text


def case(text: str, share: float, generator: Generator) -> str:
    """Returns the text with upper and lower case exchanged in a share of its letters."""
    draws = generator.random(len(text))
    return WORD.sub(
        lambda word: "".join(
            letter.swapcase() if draws[word.start() + place] < share else letter for place, letter in enumerate(word[0])
        ),
        text,
    )


def blur(image: Image.Image, share: float, generator: Generator) -> Image.Image:
    """Returns the image under a Gaussian whose standard deviation is a share of its longer side."""
    return image.filter(ImageFilter.GaussianBlur(share * max(image.size)))


def crop(image: Image.Image, share: float, generator: Generator) -> Image.Image:
    """Returns the image without a share of its width and of its height, cut off at sides drawn at random."""
    width, height = (max(1, round(side * (1 - share))) for side in image.size)
    across, down = generator.random(2)
    left, top = round(across * (image.width - width)), round(down * (image.height - height))
    return image.crop((left, top, left + width, top + height))


def brightness(image: Image.Image, share: float, generator: Generator) -> Image.Image:
    """Returns the image with a share of its light taken away."""
    return ImageEnhance.Brightness(image).enhance(1 - share)


TEXTS = {
    "typos": TextPerturbation(0.1, typos),
    "insertion": TextPerturbation(1, insertion),
    "case": TextPerturbation(1 / 3, case),
}
IMAGES = {
    "blur": ImagePerturbation(0.02, blur),
    "crop": ImagePerturbation(0.1, crop),
    "brightness": ImagePerturbation(0.25, brightness),
}


def _name(base: str, perturbation: str = "", severity: int = 0) -> str:
    return f"{base}.{perturbation}.{severity}" if severity else f"{base}.unperturbed"


def _sample(count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(0).permutation(count)[:QUERIES_PER_SET])


def _taken(items: list[Item]) -> list[str]:
    """Returns the perturbations that change every one of the items: those of a modality that all of them have."""
    texts = TEXTS if all(item.text for item in items) else {}
    images = IMAGES if all(item.image or item.video for item in items) else {}
    return [*texts, *images]


def _asking(
    plain: EvaluationSet, items: list[Item], collection: Collection, base: str, perturbation: str, severity: int
) -> EvaluationSet:
    """Returns the set with other queries in the place of its own."""
    positions = collection.positions
    queries = np.array([positions.setdefault(item, len(positions)) for item in items], np.int32)
    task = derived_task(plain.task, f"{perturbation} {severity}", len(items))
    return EvaluationSet(_name(base, perturbation, severity), task, queries, plain.pools)


def _written(source: ImageSource, perturbation: str, severity: int, images: Path) -> Path:
    """Returns the file of the perturbed image, named after the image's pixels and what is done to them."""
    try:
        image = load_image(source)
    except UnreadableImage as error:
        raise DataInvalid(f"{source!r}: {error}", REMEDY) from error
    pixels = repr(image.size).encode() + image.tobytes()
    unit, apply = IMAGES[perturbation]
    file = images / f"{hashlib.sha256(pixels).hexdigest()[:32]}-{perturbation}-{unit * severity:g}.png"
    if not file.is_file():
        with atomic_file(file) as partial:
            apply(image, unit * severity, _generator(pixels)).save(partial, "PNG", compress_level=1)
    return file


def _generator(content: bytes) -> Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(content).digest()[:8], "big"))

"""XTD: captions of the same thousand images in several languages, measured as the probe `multilingual` is.

Source: Aggarwal and Kale 2020, Towards Zero-shot Cross-lingual Image Retrieval (arXiv 2012.05107), which reports
recall@10; its files are those of the repository adobe-research/Cross-lingual-Test-Dataset-XTD10.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from components.corpus import Item, Query
from components.errors import DataInvalid, UsageError
from components.evaluation.benchmark import Benchmark
from components.evaluation.probes.multilingual import ENGLISH, language_task
from components.evaluation.sets import Collection, Suite
from components.files import file_sha256

XTD = "xtd"
CAPTIONS, IMAGE_NAMES = "test_1kcaptions_", "test_image_names.txt"
XTD_AGAIN = "Get XTD again: git clone https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10"


def xtd_suite(mirror: Path) -> Suite:
    """Returns XTD in all the languages that the folder holds at any depth, each under the code in its file's name.

    The images of MSCOCO 2014 that XTD names lie at any depth below the same folder. Raises `UsageError` if there are
    no captions in English or two files for a language, `DataInvalid` if a caption, its image or the list of images
    is missing.
    """
    found = sorted(mirror.rglob(f"{CAPTIONS}*.txt"))
    files = {file.stem.removeprefix(CAPTIONS): file for file in found}
    if ENGLISH not in files or len(files) < len(found):
        raise UsageError(
            f"{mirror}: should hold one {CAPTIONS}LANGUAGE.txt for each language, {ENGLISH} among them",
            "Name the folder that holds XTD's folders MIC, STAIR and XTD10.",
        )
    listed = next(mirror.rglob(IMAGE_NAMES), mirror / IMAGE_NAMES)
    images = _images(_lines(listed), mirror)
    candidates = tuple(Item(image=image) for image in images)
    tasks = {language: language_task(len(candidates), len(candidates), None, "recall@10", "xtd") for language in files}
    collection = Collection(XTD_AGAIN)
    sets = [
        collection.from_queries(language, tasks[language], _queries(file, candidates))
        for language, file in files.items()
    ]
    digest = _digest([*files.values(), listed, *images])
    return collection.suite(Benchmark(name=XTD, tasks=tasks), digest, mirror, sets)


def _queries(file: Path, candidates: tuple[Item, ...]) -> Iterator[Query]:
    """Yields the captions of a file, of which each is that of the image in its place."""
    captions = _lines(file)
    if len(captions) != len(candidates):
        raise DataInvalid(f"{file}: {len(captions)} captions of {len(candidates)} images", XTD_AGAIN)
    for row, caption in enumerate(captions):
        yield Query(Item(caption), candidates, {row: 1.0})


def _lines(file: Path) -> list[str]:
    """Returns the lines without white space around them. Raises `DataInvalid` if there is no text in one."""
    try:
        lines = file.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataInvalid(f"{file} cannot be read: {error}", XTD_AGAIN) from error
    stripped = [line.strip() for line in lines]
    if "" in stripped:
        raise DataInvalid(f"{file}: line {stripped.index('') + 1} is empty", XTD_AGAIN)
    return stripped


def _images(names: list[str], images: Path) -> list[Path]:
    """Returns the images in the order of their names. Raises `DataInvalid` if one is missing or named twice."""
    if len(set(names)) < len(names):
        raise DataInvalid(f"{IMAGE_NAMES}: names an image twice", XTD_AGAIN)
    wanted = set(names)
    found = {file.name: file for file in images.rglob("*") if file.name in wanted}
    if missing := [name for name in names if name not in found]:
        raise DataInvalid(
            f"{images}: {len(missing)} of {len(names)} images are missing, the first is {missing[0]}",
            "They are in train2014.zip and val2014.zip of MSCOCO (cocodataset.org).",
        )
    return [found[name] for name in names]


def _digest(files: Iterable[Path]) -> str:
    """Returns one SHA-256 over the names and contents of the files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()

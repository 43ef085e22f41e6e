"""Image-text pairs turned into MMEB rows: both directions, and evaluation sets held out by image.

Whether a pair is held out follows from a hash of its image and the seed, so that all captions of one image are
on the same side, whatever the order of the rows. Of the held-out pairs, those with the smallest hashes make the
evaluation set; the others are left out, because an image like theirs may be in it.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.corpus.config import SourceSettings
from components.corpus.images import checked_image, safe_path
from components.corpus.layout import EVAL_SCHEMA, TRAIN_SCHEMA, RowWriter, bare, write_rows
from components.corpus.manifest import EvaluationTask, Tasks
from components.corpus.quarantine import Quarantine, Rejected

LARGEST_EVALUATION_SET = 1_000
FIND_IMAGE = "Find me an image that matches the given caption."
FIND_CAPTION = "Find an image caption describing the given image."
REPRESENT_IMAGE = "Represent the given image."


@dataclass(frozen=True)
class ImageText:
    """One row as its source holds it, unchecked; `Rejected` stands for a value that could not even be read."""

    file: str
    row: int
    image: Any
    text: Any


def build_pairs(
    config: SourceSettings, directory: Path, quarantine: Quarantine, pairs: Iterable[ImageText], folder: Path
) -> Tasks:
    """Writes train, dev and eval files and the images of `pairs`; relative image paths start at `folder`."""
    images = directory / "images"
    images.mkdir()
    held_out = {"eval": HeldOut(images), "dev": HeldOut(images)}
    with ExitStack() as stack:
        t2i, i2t = (
            stack.enter_context(RowWriter(directory / "train" / f"{config.name}_{direction}.parquet", TRAIN_SCHEMA))
            for direction in ("t2i", "i2t")
        )
        for pair in pairs:
            with quarantine.row(pair.file, pair.row):
                text = checked_text(pair.text)
                source = image_source(pair.image, folder)
                named = "the image" if isinstance(source, bytes) else str(pair.image)
                content, extension = checked_image(source, named)
                digest = hashlib.sha256(content).hexdigest()
                name = f"{digest[:16]}.{extension}"
                priority = int(hashlib.sha256(f"{config.seed}:{digest}".encode()).hexdigest()[:16], 16)
                split = split_of(priority / 16**16, config.eval_share, config.dev_share)
                if split == "train":
                    store(images / name, content)
                    t2i.add(train_row(FIND_IMAGE, text, "", REPRESENT_IMAGE, "", name))
                    i2t.add(train_row(FIND_CAPTION, "", name, "", text, ""))
                else:
                    held_out[split].add(priority, name, text, content)
    evaluation = {split: dict(_write(config, directory, split, pool)) for split, pool in held_out.items()}
    return Tasks(
        train={writer.path.stem: writer.rows for writer in (t2i, i2t) if writer.rows},
        dev=evaluation["dev"],
        eval=evaluation["eval"],
    )


def split_of(position: float, eval_share: float, dev_share: float) -> Literal["train", "dev", "eval"]:
    """Returns the split of an image whose hash lies at `position` between 0 and 1."""
    if position < eval_share:
        return "eval"
    return "dev" if position < eval_share + dev_share else "train"


class HeldOut:
    """The pairs with the smallest hashes among all that are added, at most `LARGEST_EVALUATION_SET`."""

    def __init__(self, images: Path) -> None:
        self.images = images
        self._heap: list[tuple[int, int, str, str]] = []
        self._added = 0

    def add(self, priority: int, image: str, text: str, content: bytes) -> None:
        self._added += 1
        entry = (-priority, -self._added, image, text)
        if len(self._heap) < LARGEST_EVALUATION_SET:
            heapq.heappush(self._heap, entry)
            store(self.images / image, content)
        elif entry > self._heap[0]:
            store(self.images / image, content)
            gone = heapq.heapreplace(self._heap, entry)[2]
            if all(kept[2] != gone for kept in self._heap):
                (self.images / gone).unlink()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The `(image, text)` pairs in the order of their hashes."""
        return [(image, text) for _, _, image, text in sorted(self._heap, reverse=True)]


def retrieval_rows(pairs: list[tuple[str, str]], seed: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rows that ask for the image of each text, and those that ask for the text of each image.

    All queries share one shuffled list of candidates; `label` holds every candidate that is paired with the query.
    """
    shuffle = random.Random(seed).shuffle
    images, texts = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True)) if pairs else ([], [])
    queries = (texts.copy(), images.copy())
    shuffle(images)
    shuffle(texts)
    labels: tuple[dict[str, set[int]], dict[str, set[int]]] = ({}, {})
    image_at, text_at = ({value: position for position, value in enumerate(side)} for side in (images, texts))
    for image, text in pairs:
        labels[0].setdefault(text, set()).add(image_at[image])
        labels[1].setdefault(image, set()).add(text_at[text])
    t2i = [
        evaluation_row(FIND_IMAGE, text, "", REPRESENT_IMAGE, [""] * len(images), images, labels[0][text])
        for text in queries[0]
    ]
    i2t = [
        evaluation_row(FIND_CAPTION, "", image, "", texts, [""] * len(texts), labels[1][image]) for image in queries[1]
    ]
    return t2i, i2t


def train_row(
    qry_inst: str, qry: str, qry_image_path: str, pos_inst: str, pos_text: str, pos_image_path: str
) -> dict[str, str]:
    return {
        "qry_inst": qry_inst,
        "qry": qry,
        "qry_image_path": qry_image_path,
        "pos_inst": pos_inst,
        "pos_text": pos_text,
        "pos_image_path": pos_image_path,
        "neg_text": "",
        "neg_image_path": "",
    }


def evaluation_row(
    qry_inst: str, qry_text: str, qry_img_path: str, tgt_inst: str, texts: list[str], paths: list[str], label: set[int]
) -> dict[str, Any]:
    return {
        "qry_inst": qry_inst,
        "qry_text": qry_text,
        "qry_img_path": qry_img_path,
        "tgt_inst": tgt_inst,
        "tgt_text": texts,
        "tgt_img_path": paths,
        "label": sorted(label),
    }


def image_source(value: Any, folder: Path) -> bytes | Path:
    """Returns the bytes of a picture or its path; raises `Rejected` if `value` is neither, or leads out of `folder`.

    A dict is what `datasets` stores for a picture: `bytes`, or else `path`.
    """
    if isinstance(value, Rejected):
        raise value
    if isinstance(value, dict) and value.keys() & {"bytes", "path"}:
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or value == b"":
        raise Rejected("missing image", "the row names none")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise Rejected("wrong type", f"the image is a {type(value).__name__}")
    return Path(value) if Path(value).is_absolute() else folder / safe_path(value)


def checked_text(value: Any) -> str:
    """Returns the text without surrounding space; raises `Rejected` if it is none, or not Unicode."""
    if isinstance(value, Rejected):
        raise value
    if value is None:
        raise Rejected("no content", "the row has no text")
    if not isinstance(value, str):
        raise Rejected("wrong type", f"the text is a {type(value).__name__}")
    if not (text := bare(value)):
        raise Rejected("no content", "the text is empty")
    return encodable(text)


def encodable(text: str) -> str:
    """Returns the text; raises `Rejected` if it holds half a surrogate pair, which no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Rejected("wrong type", "the text is not valid Unicode") from error
    return text


def store(file: Path, content: bytes) -> None:
    if not file.exists():
        file.write_bytes(content)


def _write(config: SourceSettings, directory: Path, split: str, pool: HeldOut) -> Iterator[tuple[str, EvaluationTask]]:
    rows = retrieval_rows(pool.pairs, f"{config.seed}:{split}")
    for direction, queries in zip(("t2i", "i2t"), rows, strict=True):
        if queries:
            name = f"{config.name}_{direction}"
            write_rows(directory / split / f"{name}.parquet", EVAL_SCHEMA, queries)
            yield (
                name,
                EvaluationTask(
                    rows=len(queries),
                    candidates=len(queries[0]["tgt_text"]),
                    meta_task="retrieval",
                    distribution="IND",
                ),
            )

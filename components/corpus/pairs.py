"""Image-text pairs turned into MMEB rows: both directions, labels, and evaluation sets held out by group.

Pairs whose captions are equal, or whose images look the same, are one group (`components/corpus/groups.py`). Whether
a group is held out follows from a hash of its smallest image hash and the seed, whatever the order of the rows. Of the
held-out pairs, those of the groups with the smallest hashes make the evaluation set; the others are left out.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.corpus.config import SourceSettings
from components.corpus.groups import Looks, Sets, labels_of, same_caption
from components.corpus.images import checked_image, image_source
from components.corpus.layout import RowWriter, write_rows
from components.corpus.manifest import EvaluationTask, Tasks
from components.corpus.quarantine import Quarantine, Rejected
from components.corpus.rows import EVAL_SCHEMA, TRAIN_SCHEMA, bare
from components.corpus.splits import priority, split_of

LARGEST_EVALUATION_SET = 1_000
LEAKS = "leaks.json"
EXAMPLES = 5
FIND_IMAGE = "Find me an image that matches the given caption."
FIND_CAPTION = "Find an image caption describing the given image."
REPRESENT_IMAGE = "Represent the given image."
CLASSIFY = "Represent the given image for classification."


@dataclass(frozen=True)
class ImageText:
    """One row as its source holds it, unchecked; `Rejected` stands for a value that could not even be read."""

    file: str
    row: int
    image: Any
    text: Any


@dataclass
class Pairs:
    """The usable pairs of a source, as numbers: `rows` holds `(image, text, caption)` in the source's order.

    `images` are names below `images/`, `texts` are as they were written; texts that say the same have one caption.
    """

    images: dict[str, int] = field(default_factory=dict)
    digests: list[bytes] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)
    captions: dict[str, int] = field(default_factory=dict)
    rows: list[tuple[int, int, int]] = field(default_factory=list)
    looks: Looks = field(default_factory=Looks)

    def add(self, text: str, content: bytes, extension: str, folder: Path) -> None:
        digest = hashlib.sha256(content)
        name = f"{digest.hexdigest()[:16]}.{extension}"
        if name not in self.images:
            self.images[name] = len(self.images)
            self.digests.append(digest.digest())
            (folder / name).write_bytes(content)
            self.looks.add(content, folder / name)
        text_number = self.texts.setdefault(text, len(self.texts))
        caption = self.captions.setdefault(same_caption(text), len(self.captions))
        self.rows.append((self.images[name], text_number, caption))


@dataclass(frozen=True)
class Grouped:
    """`group[image]` is the number of an image's group; `labels` are the captions that are labels."""

    group: list[int]
    labels: set[int]
    near_duplicates: list[tuple[int, int]]


def build_pairs(
    config: SourceSettings, directory: Path, quarantine: Quarantine, pairs: Iterable[ImageText], folder: Path
) -> Tasks:
    """Writes train, dev and eval files, the images of `pairs` and a report of what was joined; relative image paths
    start at `folder`. Memory grows with the number of pairs, not with their images."""
    images = directory / "images"
    images.mkdir()
    found = Pairs()
    for pair in pairs:
        with quarantine.row(pair.file, pair.row):
            text = checked_text(pair.text)
            source = image_source(pair.image, folder)
            content, extension = checked_image(source, "the image" if isinstance(source, bytes) else str(pair.image))
            found.add(text, content, extension, images)
    grouped = group(found)
    train, held_out = divided(config, found, grouped)
    _write_leaks(directory / LEAKS, found, grouped)
    tasks = Tasks(
        train=_write_training(config, directory, found, grouped, train),
        dev=dict(_write(config, directory, "dev", found, grouped, held_out["dev"])),
        eval=dict(_write(config, directory, "eval", found, grouped, held_out["eval"])),
    )
    kept = {found.rows[row][0] for rows in (train, *held_out.values()) for row in rows}
    for name, number in found.images.items():
        if number not in kept:
            (images / name).unlink()
    return tasks


def group(found: Pairs) -> Grouped:
    """Returns the groups of the images: near duplicates, those that share a caption which is no label, and so on."""
    pairs = [(image, caption) for image, _, caption in found.rows]
    labels = labels_of(pairs, len(found.images))
    near_duplicates = list(found.looks.near_duplicates())
    sets = Sets(len(found.images))
    for one, other in near_duplicates:
        sets.join(one, other)
    first: dict[int, int] = {}
    for image, caption in pairs:
        if caption not in labels:
            sets.join(first.setdefault(caption, image), image)
    return Grouped([sets.find(image) for image in range(len(found.images))], labels, near_duplicates)


def divided(config: SourceSettings, found: Pairs, grouped: Grouped) -> tuple[list[int], dict[str, list[int]]]:
    """Returns the numbers of the rows of the training set and of the held-out sets, in the order of their hashes."""
    smallest: dict[int, bytes] = {}
    for image, number in enumerate(grouped.group):
        smallest[number] = min(smallest.get(number, found.digests[image]), found.digests[image])
    priorities = {number: priority(config.seed, digest.hex()) for number, digest in smallest.items()}
    rows: dict[str, list[int]] = {"train": [], "dev": [], "eval": []}
    for row, (image, _, _) in enumerate(found.rows):
        split = split_of(priorities[grouped.group[image]], config.dev_fraction, config.eval_fraction)
        rows[split].append(row)
    held_out = {
        split: sorted(rows[split], key=lambda row: (priorities[grouped.group[found.rows[row][0]]], row))
        for split in ("dev", "eval")
    }
    return rows["train"], {split: each[:LARGEST_EVALUATION_SET] for split, each in held_out.items()}


def retrieval_rows(
    pairs: Sequence[tuple[str, str, int]], seed: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Returns the rows that ask for the images of each text, and those that ask for the texts of each image.

    A pair is `(image, text, group)`. All queries share one shuffled list of candidates; `label` holds every candidate
    of the query's group.
    """
    images = {image: number for image, _, number in pairs}
    texts = {text: number for _, text, number in pairs}
    offered = [list(side) for side in (images, texts)]
    shuffle = random.Random(seed).shuffle
    for side in offered:
        shuffle(side)
    image_at, text_at = (_positions(side, groups) for side, groups in zip(offered, (images, texts), strict=True))
    paths, captions = offered
    t2i = [
        evaluation_row(FIND_IMAGE, text, "", REPRESENT_IMAGE, [""] * len(paths), paths, image_at[number])
        for text, number in texts.items()
    ]
    i2t = [
        evaluation_row(FIND_CAPTION, "", image, "", captions, [""] * len(captions), text_at[number])
        for image, number in images.items()
    ]
    return t2i, i2t


def label_rows(pairs: Sequence[tuple[str, str, int]], labels: Iterable[str], seed: str) -> list[dict[str, Any]]:
    """Returns the rows that ask for the label of each image; `label` holds every one that its group has."""
    offered = sorted(labels)
    random.Random(seed).shuffle(offered)
    right: defaultdict[int, set[int]] = defaultdict(set)
    for _, label, number in pairs:
        right[number].add(offered.index(label))
    images = {image: number for image, _, number in pairs}
    return [
        evaluation_row(CLASSIFY, "", image, "", offered, [""] * len(offered), right[number])
        for image, number in images.items()
    ]


def joined(directory: Path) -> str:
    """Returns one line on what the report in `directory` says was joined; nothing where there is no report."""
    if not (directory / LEAKS).is_file():
        return ""
    report = json.loads((directory / LEAKS).read_text(encoding="utf-8"))
    return (
        f"{report['images_with_another_ones_caption']['count']} images have another one's caption, "
        f"{report['images_like_another']['count']} look like another: kept on one side, and right answers for each "
        f"other; {report['labels']['count']} captions are labels ({directory / LEAKS})"
    )


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


def _positions(offered: Sequence[str], groups: dict[str, int]) -> dict[int, set[int]]:
    """Returns where the candidates of each group stand among those offered."""
    found: defaultdict[int, set[int]] = defaultdict(set)
    for position, candidate in enumerate(offered):
        found[groups[candidate]].add(position)
    return found


def _write_training(
    config: SourceSettings, directory: Path, found: Pairs, grouped: Grouped, rows: Iterable[int]
) -> dict[str, int]:
    images, texts = list(found.images), list(found.texts)
    with ExitStack() as stack:
        t2i, i2t, label = (
            stack.enter_context(RowWriter(directory / "train" / f"{config.name}_{task}.parquet", TRAIN_SCHEMA))
            for task in ("t2i", "i2t", "label")
        )
        for row in rows:
            image, number, caption = found.rows[row]
            name, text = images[image], texts[number]
            if caption in grouped.labels:
                label.add(train_row(CLASSIFY, "", name, "", text, ""))
            else:
                t2i.add(train_row(FIND_IMAGE, text, "", REPRESENT_IMAGE, "", name))
                i2t.add(train_row(FIND_CAPTION, "", name, "", text, ""))
    return {writer.path.stem: writer.rows for writer in (t2i, i2t, label) if writer.rows}


def _write(
    config: SourceSettings, directory: Path, split: str, found: Pairs, grouped: Grouped, rows: Sequence[int]
) -> Iterator[tuple[str, EvaluationTask]]:
    images = list(found.images)
    written = _first_spellings(found)
    captioned: list[tuple[str, str, int]] = []
    labelled: list[tuple[str, str, int]] = []
    for row in rows:
        image, _, caption = found.rows[row]
        pair = (images[image], written[caption], grouped.group[image])
        (labelled if caption in grouped.labels else captioned).append(pair)
    seed = f"{config.seed}:{split}"
    asked = dict(zip(("t2i", "i2t"), retrieval_rows(captioned, seed), strict=True))
    asked["label"] = label_rows(labelled, [written[label] for label in grouped.labels], seed)
    for task, queries in asked.items():
        if queries:
            name = f"{config.name}_{task}"
            write_rows(directory / split / f"{name}.parquet", EVAL_SCHEMA, queries)
            yield (
                name,
                EvaluationTask(
                    rows=len(queries),
                    candidates=len(queries[0]["tgt_text"]),
                    meta_task="classification" if task == "label" else "retrieval",
                    distribution="IND",
                ),
            )


def _first_spellings(found: Pairs) -> dict[int, str]:
    """Returns the text that stands for each caption: the smallest of its spellings, whatever the order of the rows."""
    texts = list(found.texts)
    written: dict[int, str] = {}
    for _, number, caption in found.rows:
        written[caption] = min(written.get(caption, texts[number]), texts[number])
    return written


def _write_leaks(file: Path, found: Pairs, grouped: Grouped) -> None:
    """Writes what was joined and why: how many, and examples."""
    images, written = list(found.images), _first_spellings(found)
    having: defaultdict[int, dict[int, None]] = defaultdict(dict)
    for image, _, caption in found.rows:
        having[caption][image] = None
    shared = {caption: list(each) for caption, each in having.items() if len(each) > 1}
    captioned = [caption for caption in shared if caption not in grouped.labels]
    alike = sorted({image for pair in grouped.near_duplicates for image in pair})
    report = {
        "images_with_another_ones_caption": {
            "count": len({image for caption in captioned for image in shared[caption]}),
            "examples": [
                {"caption": written[caption], "images": [images[image] for image in shared[caption][:EXAMPLES]]}
                for caption in captioned[:EXAMPLES]
            ],
        },
        "images_like_another": {
            "count": len(alike),
            "examples": [[images[image] for image in pair] for pair in grouped.near_duplicates[:EXAMPLES]],
        },
        "labels": {
            "count": len(grouped.labels),
            "examples": {written[label]: len(having[label]) for label in sorted(grouped.labels)[:EXAMPLES]},
        },
        "groups": len(set(grouped.group)),
    }
    file.write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")

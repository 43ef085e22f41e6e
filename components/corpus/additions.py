"""New pairs that join the training set of any source: what users have corrected, or what has come since.

`corpus.additions` names folders (`NAME.txt` beside `NAME.png`) and tables (columns `image` and `text`); one that does
not exist yet has no pairs. A pair that is there already is not added again. One whose image or caption an
evaluation set holds is left out: it would teach the answers of the test. `additions.json` says how many there were.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from components.corpus.config import SourceSettings
from components.corpus.groups import Looks, same_caption
from components.corpus.images import checked_image, image_source
from components.corpus.layout import RowWriter
from components.corpus.manifest import Input, Tasks
from components.corpus.pairs import FIND_CAPTION, FIND_IMAGE, REPRESENT_IMAGE, ImageText, checked_text, train_row
from components.corpus.quarantine import Quarantine
from components.corpus.rows import TRAIN_SCHEMA
from components.corpus.sources import folder, table

REPORT = "additions.json"
ROWS_A_BATCH = 64


@dataclass
class Report:
    """How many pairs joined the training set, were there already, or are asked for in an evaluation set."""

    added: int = 0
    repeated: int = 0
    held_out: int = 0


@dataclass(frozen=True)
class Addition:
    """One new pair, checked; `name` is that of its image."""

    name: str
    text: str


def inputs(config: SourceSettings) -> dict[str, Input]:
    """Returns the hash of each place that holds additions."""
    found: dict[str, Input] = {}
    for place in present(config):
        hashed = folder.inputs(as_folder(place)) if place.is_dir() else table.inputs(as_table(place))
        found |= {f"additions: {place}": each for each in hashed.values()}
    return found


def add(config: SourceSettings, directory: Path, quarantine: Quarantine, tasks: Tasks) -> Tasks:
    """Writes the new pairs beside those of the source, in both directions; returns the tasks with theirs.

    Raises `UsageError` for a table without the two columns, `DataInvalid` for one that cannot be read.
    """
    if not (places := present(config)):
        return tasks
    report = Report()
    images = directory / "images"
    images.mkdir(exist_ok=True)
    with ExitStack() as stack:
        staged = Path(stack.enter_context(TemporaryDirectory(dir=directory, prefix=".additions.")))
        additions = list(new(places, staged, trained(directory), quarantine, report))
        captions, names = held_out(directory)
        alike = like_held_out([images / name for name in sorted(names)], [staged / each.name for each in additions])
        t2i, i2t = (
            stack.enter_context(RowWriter(directory / "train" / f"added_{task}.parquet", TRAIN_SCHEMA))
            for task in ("t2i", "i2t")
        )
        for number, addition in enumerate(additions):
            if number in alike or same_caption(addition.text) in captions:
                report.held_out += 1
                continue
            report.added += 1
            shutil.copyfile(staged / addition.name, images / addition.name)
            t2i.add(train_row(FIND_IMAGE, addition.text, "", REPRESENT_IMAGE, "", addition.name))
            i2t.add(train_row(FIND_CAPTION, "", addition.name, "", addition.text, ""))
    (directory / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    added = {writer.path.stem: writer.rows for writer in (t2i, i2t) if writer.rows}
    return tasks.model_copy(update={"train": {**tasks.train, **added}})


def present(config: SourceSettings) -> list[Path]:
    """Returns the places that exist and hold a file, each once."""
    places = map(Path, dict.fromkeys(config.additions))
    return [place for place in places if place.is_file() or (place.is_dir() and folder.images(place))]


def new(
    places: list[Path], staged: Path, known: set[tuple[str, str]], quarantine: Quarantine, report: Report
) -> Iterator[Addition]:
    """Yields the usable pairs of all places that are not `known`, each once; their images are written to `staged`."""
    for place in places:
        root = place if place.is_dir() else place.parent
        for pair in pairs(place):
            with quarantine.row(f"{place}: {pair.file}", pair.row):
                text = checked_text(pair.text)
                source = image_source(pair.image, root)
                content, extension = checked_image(
                    source, "the image" if isinstance(source, bytes) else str(pair.image)
                )
                name = f"{hashlib.sha256(content).hexdigest()[:16]}.{extension}"
                if (name, same_caption(text)) in known:
                    report.repeated += 1
                    continue
                known.add((name, same_caption(text)))
                (staged / name).write_bytes(content)
                yield Addition(name, text)


def pairs(place: Path) -> Iterator[ImageText]:
    return folder.pairs(as_folder(place)) if place.is_dir() else table.pairs(as_table(place))


def as_folder(place: Path) -> folder.Settings:
    return folder.Settings(source="folder", name="added", location=str(place))


def as_table(place: Path) -> table.Settings:
    return table.Settings(source="table", name="added", location=str(place))


def trained(directory: Path) -> set[tuple[str, str]]:
    """Returns the image and the caption of each training row that finds one by the other."""
    rows = columns(directory / "train", "qry", "pos_image_path")
    return {(image, same_caption(text)) for text, image in rows if text and image}


def held_out(directory: Path) -> tuple[set[str], set[str]]:
    """Returns the captions and the names of the images that the evaluation sets hold, as queries or candidates."""
    captions: set[str] = set()
    names: set[str] = set()
    for split in ("dev", "eval", "multilingual"):
        rows = columns(directory / split, "qry_text", "tgt_text", "qry_img_path", "tgt_img_path")
        for text, texts, image, images in rows:
            captions |= {same_caption(each) for each in (text, *texts) if each}
            names |= {each for each in (image, *images) if each}
    return captions, names


def columns(files: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    """Yields the values of some columns of all tables in a folder, row by row."""
    for file in sorted(files.glob("[!.]*.parquet")):
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(ROWS_A_BATCH, columns=list(names)):
                yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)


def like_held_out(known: list[Path], added: list[Path]) -> set[int]:
    """Returns the numbers of the added images that show what a held-out one shows, or nearly so."""
    looks = Looks()
    for file in (*known, *added):
        looks.add(file.read_bytes(), file)
    return {other - len(known) for one, other in looks.near_duplicates() if one < len(known) <= other}

"""Rows that are in MMEB's layout already: a local folder, or a zip or tar archive of one.

The folder holds, under any of these names, Parquet or JSONL files with MMEB's columns (a file cut in shards ends in
`-00000-of-00002`; `test`, `original` are the hub's own names of the splits):

    train/TASK.parquet    dev/TASK.jsonl    eval/TASK.parquet
    TASK/original-00000-of-00001.parquet    TASK/test-00000-of-00001.parquet
    images/...                              or the images beside the files above

Both forms of queries are read: with the instruction inside `qry_text` (v1), and apart in `qry_inst`. The hub's
`diverse_instruction` repeats the rows of `original` in other words and is left out.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from components.corpus.archive import extract
from components.corpus.config import FileSettings
from components.corpus.images import checked_image, safe_path
from components.corpus.layout import RowWriter, Split
from components.corpus.manifest import Distribution, EvaluationTask, Input, MetaTask, Tasks
from components.corpus.pairs import encodable
from components.corpus.quarantine import Quarantine, Rejected
from components.corpus.rows import (
    CANDIDATE_COLUMNS,
    EVAL_SCHEMA,
    REQUIRED_COLUMNS,
    TRAIN_SCHEMA,
    candidates,
    is_blank,
    negatives,
    relevant,
)
from components.corpus.tables import located, read_rows, record
from components.errors import UsageError
from components.files import file_sha256, folder_sha256

Task = tuple[Split, str]
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
SPLITS: dict[str, Split] = {"train": "train", "original": "train", "dev": "dev", "eval": "eval", "test": "eval"}
REMEMBERED_PATHS = 65_536
SETS: dict[tuple[MetaTask, Distribution], str] = {
    ("classification", "IND"): "ImageNet-1K N24News HatefulMemes VOC2007 SUN397",
    ("classification", "OOD"): "Place365 ImageNet-A ImageNet-R ObjectNet Country211",
    ("vqa", "IND"): "OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W",
    ("vqa", "OOD"): "ScienceQA VizWiz GQA TextVQA",
    ("retrieval", "IND"): "VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA",
    ("retrieval", "OOD"): "FashionIQ Wiki-SS-NQ OVEN EDIS",
    ("grounding", "IND"): "MSCOCO",
    ("grounding", "OOD"): "RefCOCO RefCOCO-Matching Visual7W-Pointing",
}
KNOWN = {name: kind for kind, names in SETS.items() for name in names.split()}


class Settings(FileSettings):
    source: Literal["mmeb"]


def inputs(config: Settings) -> dict[str, Input]:
    """Returns the hash of the archive, or of all files of the folder."""
    location = located(config)
    sha256 = folder_sha256(location) if location.is_dir() else file_sha256(location)
    return {location.name: Input(version="", sha256=sha256)}


def build(config: Settings, directory: Path, quarantine: Quarantine) -> Tasks:
    """Writes the rows of the folder or archive, and the images that they name, to `directory`.

    Raises `UsageError` if the location is neither, or holds no rows where they are expected.
    """
    location = located(config)
    extracted = directory / ".extracted"
    if location.is_dir():
        return build_folder(location, directory, quarantine)
    if not location.name.endswith(ARCHIVES):
        raise UsageError(f"corpus.location: {location} is no folder", f"An archive ends in {', '.join(ARCHIVES)}.")
    extracted.mkdir()
    extract(location, extracted, quarantine)
    tasks = build_folder(only_folder(extracted), directory, quarantine)
    shutil.rmtree(extracted)
    return tasks


def build_folder(source: Path, directory: Path, quarantine: Quarantine) -> Tasks:
    tasks = files_by_task(source)
    if not tasks:
        raise UsageError(
            f"{source.name} holds no rows in MMEB's layout",
            "Expected are train/TASK.parquet, eval/TASK.parquet, TASK/original-*.parquet or TASK/test-*.parquet.",
        )
    image = image_copier(source, directory / "images")
    trained = {name for split, name in tasks if split == "train"}
    train: dict[str, int] = {}
    queries: dict[str, dict[str, EvaluationTask]] = {"dev": {}, "eval": {}}
    for (split, name), files in sorted(tasks.items()):
        schema, check = (TRAIN_SCHEMA, pair_row) if split == "train" else (EVAL_SCHEMA, query_row)
        most = 0
        with RowWriter(directory / split / f"{name}.parquet", schema) as writer:
            for file in files:
                for number, raw in enumerate(read_rows(file)):
                    with quarantine.row(file.relative_to(source).as_posix(), number):
                        row = check(record(raw), image)
                        most = max(most, len(row.get("tgt_text", ())))
                        writer.add(row)
        if writer.rows and split == "train":
            train[name] = writer.rows
        elif writer.rows:
            meta_task, distribution = kind_of(name, trained)
            queries[split][name] = EvaluationTask(
                rows=writer.rows, candidates=most, meta_task=meta_task, distribution=distribution
            )
    return Tasks(train=train, dev=queries["dev"], eval=queries["eval"])


def kind_of(name: str, trained: set[str]) -> tuple[MetaTask, Distribution]:
    """Returns what MMEB says about the set; any other set is retrieval, in distribution if it has training rows."""
    return KNOWN.get(name) or ("retrieval", "IND" if name in trained else "OOD")


def files_by_task(source: Path) -> dict[Task, list[Path]]:
    """Returns the files of each split and task, shards in the order of their numbers."""
    tasks: dict[Task, list[Path]] = {}
    for file in sorted(source.glob("*/*")):
        if file.suffix in (".parquet", ".jsonl"):
            name, folder = SHARD.sub("", file.stem), file.parent.name
            if folder in SPLITS:
                tasks.setdefault((SPLITS[folder], name), []).append(file)
            elif name in SPLITS:
                tasks.setdefault((SPLITS[name], folder), []).append(file)
    return tasks


def only_folder(folder: Path) -> Path:
    """Returns the one folder that an archive was packed from, or `folder` itself if it was packed from its inside."""
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].name not in SPLITS and not files_by_task(folder) else folder


def image_copier(source: Path, images: Path) -> Callable[[str], str]:
    """Returns the function that checks and copies the image of a path once, and returns the path below `images`."""

    @lru_cache(REMEMBERED_PATHS)
    def copied(name: str) -> str:
        path = safe_path(name)
        if not (target := images / path).exists():
            beside = source / "images" / path
            content, _ = checked_image(beside if beside.is_file() else source / path, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        return path.as_posix()

    return lambda name: copied(name) if name else ""


def pair_row(row: dict[str, Any], image: Callable[[str], str]) -> dict[str, Any]:
    """Returns a training row with its images copied; raises `Rejected` if it cannot be used."""
    checked = {column: text(row, column) for column in REQUIRED_COLUMNS[TRAIN_SCHEMA]}
    checked |= {column: one_text(row.get(column), column) for column in ("qry_inst", "pos_inst")}
    for side, content in (("query", ("qry", "qry_image_path")), ("positive", ("pos_text", "pos_image_path"))):
        require_content(side, *(checked[column] for column in content))
    for column in ("qry_image_path", "pos_image_path"):
        checked[column] = image(checked[column])
    try:
        hard = negatives(written(row, "neg_text"), written(row, "neg_image_path"))
    except ValueError as error:
        raise Rejected("wrong type", "neg_text and neg_image_path have different lengths") from error
    checked["neg_text"] = as_text([negative for negative, _ in hard])
    checked["neg_image_path"] = as_text([image(path) for _, path in hard])
    return checked


def query_row(row: dict[str, Any], image: Callable[[str], str]) -> dict[str, Any]:
    """Returns an evaluation row with its images copied; raises `Rejected` if it cannot be used."""
    checked: dict[str, Any] = {column: text(row, column) for column in ("qry_text", "qry_img_path")}
    checked |= {column: one_text(row.get(column), column) for column in ("qry_inst", "tgt_inst")}
    require_content("query", checked["qry_text"], checked["qry_img_path"])
    try:
        targets = candidates(*(texts(row, column) for column in CANDIDATE_COLUMNS))
    except ValueError as error:
        raise Rejected("wrong type", "tgt_text and tgt_img_path have different lengths") from error
    if not targets:
        raise Rejected("no candidates", "tgt_text and tgt_img_path are empty")
    for position, target in enumerate(targets):
        require_content(f"candidate {position}", *target)
    checked["qry_img_path"] = image(checked["qry_img_path"])
    checked["tgt_text"] = [target for target, _ in targets]
    checked["tgt_img_path"] = [image(path) for _, path in targets]
    checked["label"] = label(relevant(row.get("label")), len(targets))
    return checked


def text(row: dict[str, Any], column: str) -> str:
    if column not in row:
        raise Rejected("wrong type", f"there is no column {column}")
    return one_text(row[column], column)


def one_text(value: Any, column: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Rejected("wrong type", f"{column} is a {type(value).__name__}")
    return encodable(value)


def texts(row: dict[str, Any], column: str) -> list[str] | str | None:
    value = row.get(column)
    if value is None and column in row:
        return None
    return [one_text(each, column) for each in value] if isinstance(value, list) else text(row, column)


def written(row: dict[str, Any], column: str) -> str:
    """Returns a column of negatives, which may be missing, one text, or a list of them, as one text."""
    return as_text(value) if isinstance(value := texts({column: None} | row, column), list) else value or ""


def as_text(values: list[str]) -> str:
    """Returns several values as a list written out, one as it is, none as an empty text."""
    if not any(values):
        return ""
    return values[0] if len(values) == 1 else json.dumps(values, ensure_ascii=False)


def require_content(side: str, content: str, path: str) -> None:
    if is_blank(content, path):
        raise Rejected("no content", f"the {side} has neither text nor image")


def label(value: Any, count: int) -> list[int]:
    """Returns the positions of the relevant candidates; raises `Rejected` if they are no positions among `count`."""
    if not isinstance(value, list) or not all(type(position) is int for position in value):
        raise Rejected("wrong type", "label is no list of whole numbers")
    if not value or len(set(value)) < len(value) or not all(0 <= position < count for position in value):
        raise Rejected("wrong label", f"label is {value[:10]}, but there are {count} candidates")
    return value

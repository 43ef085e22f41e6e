"""The sets of images in MMEB's columns: where their files are, and whether every image that they name is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from components.corpus.images import names_in, safe_path
from components.corpus.quarantine import Rejected
from components.corpus.row_batches import batches
from components.corpus.rows import EVAL_SCHEMA, IMAGE_PATH_COLUMNS, REQUIRED_COLUMNS, is_list
from components.errors import DataInvalid
from components.evaluation.benchmark import Task
from components.evaluation.loaders.mirror import (
    ARCHIVES,
    MEDIA,
    advice,
    media_folders,
    published,
    repository_folders,
    tables,
    unpacked,
)
from components.evaluation.loaders.tables import AGAIN, parquet, require_count, rows

IMAGE_LAYOUTS = ("mmeb-eval", "mmeb-instruct")
"""The first publication, with instructions inside the texts, and the second, with them in `qry_inst` and `tgt_inst`."""
IMAGE_REPOSITORY = "TIGER-Lab/MMEB-eval"
ROWS_AT_ONCE = 64
UNPACKED = ("eval_images", "images", "image-tasks/MMEB", "image-tasks/mmeb_v1", "image-tasks", "MMEB", "")
"""What people unpack the published archives to."""
NAMED = 3
"""How many of the missing images an error names."""


@dataclass(frozen=True)
class ImageSet:
    """A set's Parquet files, in order, and the folder that the image paths in them are relative to."""

    files: list[Path]
    images: Path


def image_set(name: str, task: Task, mirror: Path) -> ImageSet:
    """Returns where a set lies in the mirror.

    Raises `DataInvalid` if its files are missing, broken, of the other layout, without one of MMEB's columns or of
    another number of rows than published, or if an image that they name is missing or outside the folder of images.
    """
    source = published(name, task)
    if source.configuration is None:
        source = source.model_copy(update={"configuration": name})
    files = tables(name, source, mirror, [mirror, *(folder / "image-query" for folder in media_folders(mirror))])
    queries, paths = 0, set[str]()
    for file in files:
        with parquet(file, REQUIRED_COLUMNS[EVAL_SCHEMA]) as opened:
            columns = opened.schema_arrow.names
            if ("qry_inst" in columns) != (task.layout == "mmeb-instruct"):
                raise DataInvalid(f"{file}: is not in the layout {task.layout}", advice(source, mirror))
            queries += opened.metadata.num_rows
            for batch in batches(opened, IMAGE_PATH_COLUMNS, ROWS_AT_ONCE):
                paths.update(path for column in batch.columns for path in pc.unique(_flat(column)).to_pylist() if path)
    require_count(f"{name}: queries", queries, task.queries)
    _require_inside(name, files, paths)
    return ImageSet(files, _image_root(name, files, paths, [source.repository, IMAGE_REPOSITORY], mirror))


def _flat(column: pa.Array) -> pa.Array:
    return pc.list_flatten(column) if is_list(column.type) else column


def _require_inside(name: str, files: list[Path], paths: set[str]) -> None:
    for path in sorted(paths):
        try:
            safe_path(path)
        except Rejected as error:
            raise DataInvalid(f"{_place(files, path)}: {name}: {error}", AGAIN) from error


def _place(files: list[Path], path: str) -> str:
    """Returns the first row that names an image, as 'FILE: row 3'."""
    query, target = IMAGE_PATH_COLUMNS
    found = rows(files, IMAGE_PATH_COLUMNS)
    return next(place for place, row in found if path in (row[query], *_listed(row[target])))


def _listed(paths: list[str] | str | None) -> list[str]:
    return [paths] if isinstance(paths, str) else paths or []


def _image_root(name: str, files: list[Path], paths: set[str], repositories: list[str], mirror: Path) -> Path:
    """Returns the folder that holds all paths. Raises `DataInvalid` naming what the fullest one lacks."""
    fullest, fewest = mirror, sorted(paths)
    for root in _image_roots(repositories, mirror):
        missing = _missing(paths, root)
        if not missing:
            return root
        if len(missing) < len(fewest):
            fullest, fewest = root, missing
    named = ", ".join(fewest[:NAMED]) + (", ..." if fewest[NAMED:] else "")
    raise DataInvalid(
        f"{_place(files, fewest[0])}: {name}: {len(fewest)} of {len(paths)} images are missing in {fullest}: {named}",
        advice(MEDIA, mirror, [ARCHIVES["image-tasks/MMEB"]]),
    )


def _image_roots(repositories: list[str], mirror: Path) -> Iterator[Path]:
    """Yields the folders that images are unpacked to; an archive is unpacked only if none of them has them all."""
    homes = [folder for repository in repositories for folder in repository_folders(repository, mirror)]
    homes += media_folders(mirror)
    yield from (home / folder for home in homes for folder in UNPACKED)
    yield from (unpacked(home, archive) for home in homes for archive in ("eval_images", "image-tasks/MMEB"))


def _missing(paths: set[str], images: Path) -> list[str]:
    """Returns the paths below `images` that do not exist, by one listing of each folder."""
    folders: dict[str, set[str]] = {}
    for path in paths:
        folder, _, file = path.rpartition("/")
        folders.setdefault(folder, set()).add(file)
    return sorted(
        f"{folder}/{file}".lstrip("/")
        for folder, files in folders.items()
        for file in files - names_in(images / folder)
    )

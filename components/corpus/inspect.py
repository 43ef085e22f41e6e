"""What lies at a location, and which source reads it: the kind of source, and the columns of images and texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from components.corpus.images import EXTENSIONS
from components.corpus.quarantine import Rejected
from components.corpus.sources.folder import images
from components.corpus.sources.table import FORMATS
from components.corpus.sources.webdataset import TAR_SUFFIXES
from components.corpus.tables import read_rows, record
from components.errors import UsageError

ROWS_LOOKED_AT = 200
SAVED_TO_DISK = ("dataset_dict.json", "state.json")
IMAGE_ENDINGS = tuple(f".{ending}" for ending in (*EXTENSIONS.values(), "jpeg"))
USUAL_TEXTS = ("caption", "text", "title", "description", "label", "name")
Row = Mapping[str, Any]


def source_at(location: Path, image: str | None = None, text: str | None = None) -> dict[str, Any]:
    """Returns `source`, `location` and, where it has them, `columns` of the section `corpus`.

    `image` and `text` name the columns; without them the column whose values are images, and the one of other texts
    with the most usual name, or else the longest values, are taken. Raises `UsageError` if nothing that a source
    reads is there, or no column fits.
    """
    if not location.exists():
        raise UsageError(f"{location} does not exist", "Name a table, a folder, a data set or a tar.")
    found: dict[str, Any] = {"source": _kind(location), "location": str(location)}
    if found["source"] in ("table", "dataset"):
        rows = list(islice(_rows(location), ROWS_LOOKED_AT))
        found["columns"] = _columns(location, rows, image, text)
    elif image or text:
        if found["source"] == "folder":
            raise UsageError(f"{location} is a folder of images: it has no columns", "Leave the columns out.")
        found["columns"] = {name: column for name, column in (("image", image), ("text", text)) if column}
    return found


def name_of(location: Path) -> str:
    """Returns a name for the data set at a location, of lower-case letters, digits and underscores."""
    stem = location.resolve().name.partition(".")[0] if location.is_file() else location.resolve().name
    return re.sub(r"\W+", "_", stem.lower(), flags=re.ASCII).strip("_") or "pairs"


def _kind(location: Path) -> str:
    if location.is_file():
        if location.suffix in FORMATS:
            return "table"
        if location.name.endswith(TAR_SUFFIXES):
            return "webdataset"
        raise UsageError(
            f"{location}: neither a table nor a tar", f"It should end in {', '.join((*FORMATS, *TAR_SUFFIXES))}."
        )
    if any((location / name).is_file() for name in SAVED_TO_DISK) or any(location.rglob("*.parquet")):
        return "dataset"
    if any(file.name.endswith(TAR_SUFFIXES) for file in location.iterdir()):
        return "webdataset"
    if images(location):
        return "folder"
    raise UsageError(
        f"{location} holds no images, tars or data set",
        "Name a table (CSV, JSONL, Parquet), a folder of images, a Hugging Face data set, or a tar.",
    )


def _rows(location: Path) -> Iterable[Row]:
    if location.is_dir() and any((location / name).is_file() for name in SAVED_TO_DISK):
        import datasets

        loaded = datasets.load_from_disk(location)
        split = next(iter(loaded.values())) if isinstance(loaded, dict) else loaded
        for column, feature in split.features.items():
            if isinstance(feature, datasets.Image):
                split = split.cast_column(column, datasets.Image(decode=False))
        yield from split
        return
    for file in sorted(location.rglob("*.parquet")) if location.is_dir() else [location]:
        for raw in read_rows(file):
            try:
                yield record(raw)
            except Rejected:
                continue


def _columns(location: Path, rows: list[Row], image: str | None, text: str | None) -> dict[str, str]:
    names = list(rows[0]) if rows else []
    shares = {name: sum(_is_image(row.get(name)) for row in rows) / len(rows) for name in names}
    if image is None:
        image = max(shares, key=lambda name: shares[name], default=None)
        image = image if image and shares[image] > 0.5 else None
    lengths = {
        name: sum(len(row[name]) for row in rows if isinstance(row.get(name), str)) / len(rows)
        for name in names
        if name != image and shares[name] < 0.5
    }
    usual = [name for part in USUAL_TEXTS for name in lengths if part in name.lower() and lengths[name]]
    longest = max(lengths, key=lambda name: lengths[name], default=None)
    text = text or next(iter(usual), longest if longest and lengths[longest] else None)
    chosen = {"image": image, "text": text}
    for side, column in chosen.items():
        if column not in names:
            what = f"has no column {column!r}" if column else f"has no column that looks like the {side}"
            raise UsageError(
                f"{location} {what}", f"It has {', '.join(map(str, names)) or 'no rows'}; name one: --{side}-column."
            )
    return {"image": str(image), "text": str(text)}


def _is_image(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value.keys() & {"bytes", "path"})
    return isinstance(value, bytes) or (isinstance(value, str) and value.lower().endswith(IMAGE_ENDINGS))

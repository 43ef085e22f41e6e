"""The rows of MMEB's columns: how the columns are called, and what a cell means, for every reader.

An empty string or a null means "none". The text of an item is what `bare` leaves of its cell: without MMEB's image
token and without white space around it. A side of an item that has neither text nor image then is blank. To tell
repeated rows, validation also counts white space inside a text as one space.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from components.corpus.images import inside
from components.corpus.item import Item
from components.corpus.quarantine import Rejected

TRAIN_SCHEMA = pa.schema(
    {
        "qry_inst": pa.string(),
        "qry": pa.string(),
        "qry_image_path": pa.string(),
        "pos_inst": pa.string(),
        "pos_text": pa.string(),
        "pos_image_path": pa.string(),
        "neg_text": pa.string(),
        "neg_image_path": pa.string(),
    }
)
EVAL_SCHEMA = pa.schema(
    {
        "qry_inst": pa.string(),
        "qry_text": pa.string(),
        "qry_img_path": pa.string(),
        "tgt_inst": pa.string(),
        "tgt_text": pa.list_(pa.string()),
        "tgt_img_path": pa.list_(pa.string()),
        "label": pa.list_(pa.int32()),
    }
)
OPTIONAL_COLUMNS = frozenset({"qry_inst", "pos_inst", "tgt_inst", "label"})
REQUIRED_COLUMNS = {
    TRAIN_SCHEMA: ("qry", "qry_image_path", "pos_text", "pos_image_path"),
    EVAL_SCHEMA: ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path"),
}
"""The columns without which rows would be read as something else; MMEB publishes all of them, empty or not."""
CANDIDATE_COLUMNS = ("tgt_text", "tgt_img_path")
IMAGE_PATH_COLUMNS = ("qry_img_path", "tgt_img_path")
IMAGE_TOKEN = "<|image_1|>"


def bare(text: str | None) -> str | None:
    """Returns the text without MMEB's image token and without white space around it, None where nothing is left."""
    return (text or "").replace(IMAGE_TOKEN, "").strip() or None


def is_blank(text: str | None, path: str | None) -> bool:
    """Returns whether two cells hold neither text nor image."""
    return not path and bare(text) is None


def as_filed(images: Path, instruction: str | None, text: str | None, path: str | None) -> Item:
    """Returns the item of three cells as the file words it, which prompts are made of; paths are below `images`.

    Raises `Rejected` for a path that leads out of `images`.
    """
    return Item(text or None, inside(images, path) if path else None, instruction=instruction or None)


def plain(item: Item) -> Item:
    """Returns the item for an embedder that takes text and instruction apart: both as `bare` leaves them."""
    return replace(item, text=bare(item.text), instruction=bare(item.instruction))


def candidates(texts: Sequence[str] | str | None, paths: Sequence[str] | str | None) -> list[tuple[str, str]]:
    """Returns `(text, image path)` of each candidate; MMEB stores a side that all of them lack as one string.

    Raises `Rejected` for a null instead of a side, `ValueError` for sides of different lengths.
    """
    if texts is None or paths is None:
        raise Rejected("wrong type", f"{CANDIDATE_COLUMNS[texts is not None]} is a NoneType")
    if isinstance(texts, str):
        texts = [texts] * len(paths)
    if isinstance(paths, str):
        paths = [paths] * len(texts)
    return list(zip(texts, paths, strict=True))


def negatives(text: str | None, path: str | None) -> list[tuple[str, str]]:
    """Returns `(text, image path)` of each negative: none, one, or as many as the lists written out in the columns.

    Raises `ValueError` for lists of different lengths.
    """
    texts, paths = _written_list(text), _written_list(path)
    count = max(len(texts), len(paths))
    return [pair for pair in zip(texts or [""] * count, paths or [""] * count, strict=True) if not is_blank(*pair)]


def relevant(label: Sequence[int] | None) -> Sequence[int]:
    """Returns the positions of the relevant candidates; where the row says nothing, candidate 0, as in MMEB."""
    return [0] if label is None else label


def fits(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Returns whether a column of a type can be read as the one of a schema: lists, strings and integers of any size,
    and strings written as a dictionary."""
    if is_list(wanted):
        return is_list(kind) and fits(kind.value_type, wanted.value_type)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(wanted):
        return kind in (pa.string(), pa.large_string())
    return bool(pa.types.is_integer(kind))


def is_list(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.ListType | pa.LargeListType)


def _written_list(value: str | None) -> list[str]:
    """Returns the strings of a list written out as text (mmE5 stores negatives so), or the value itself."""
    if not value:
        return []
    if value.startswith("[") and value.endswith("]"):
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [value]
        if isinstance(parsed, list) and all(isinstance(text, str) for text in parsed):
            return parsed
    return [value]

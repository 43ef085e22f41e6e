"""An evaluation reads only what the manifest vouches for, whatever a warm cache holds."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.errors import DataInvalid
from components.evaluation import evaluate, read_suite
from components.scores import Scores
from tests.evaluation.conftest import CONFIG, MODEL, HashEmbedder, vouch


def scored(data: Path, cache: Path) -> Scores:
    return evaluate(HashEmbedder(), MODEL, read_suite(data, cache=cache), CONFIG, cache, lambda _: None)


def test_labels_that_were_edited_in_place_are_refused(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = scored(data, cache)
    file = data / "eval" / "Groups.parquet"
    table = pq.read_table(file)
    labels = pa.array([[(label[0] + 1) % 7] for label in table["label"].to_pylist()], table.schema.field("label").type)
    edited = table.set_column(table.schema.get_field_index("label"), "label", labels)
    pq.write_table(edited, file)
    with pytest.raises(DataInvalid, match=r"eval/Groups\.parquet"):
        scored(data, cache)
    vouch(data)
    after = scored(data, cache)
    assert after.dataset_digest != before.dataset_digest and after.tasks["Groups"] != before.tasks["Groups"]


def test_an_image_that_was_replaced_under_a_warm_cache_is_named_with_set_and_row(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = scored(data, cache)
    image = data / "images" / "3.png"
    Image.new("RGB", (4, 4), (1, 2, 3)).save(image)
    with pytest.raises(DataInvalid, match=r"images/3\.png \(Groups: query of row 3\)"):
        scored(data, cache)
    vouch(data)
    assert scored(data, cache).dataset_digest != before.dataset_digest


def test_what_only_looks_changed_is_accepted(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = scored(data, cache)
    for file in data.rglob("*.p*"):
        os.utime(file)
    assert scored(data, cache) == before

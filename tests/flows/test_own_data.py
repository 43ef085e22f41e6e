"""From a user's own table to a search, without an edit by hand."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from .conftest import ROOT, Line, environment_of

COLOURS = ("red", "green", "blue", "yellow", "black", "purple")
SIZES = {"small": 18, "big": 40}
CENTRE = 48
Draw = Callable[[ImageDraw.ImageDraw, list[int], str], None]
SHAPES: dict[str, Draw] = {
    "circle": lambda draw, box, colour: draw.ellipse(box, fill=colour),
    "square": lambda draw, box, colour: draw.rectangle(box, fill=colour),
    "ring": lambda draw, box, colour: draw.ellipse(box, outline=colour, width=8),
    "frame": lambda draw, box, colour: draw.rectangle(box, outline=colour, width=8),
    "bar": lambda draw, box, colour: draw.rectangle([box[0], CENTRE - 6, box[2], CENTRE + 6], fill=colour),
}


def write_table(folder: Path) -> Path:
    """Writes 60 drawn shapes of six colours, and the table of their captions."""
    folder.mkdir()
    table = folder / "shapes.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for size, colour, shape in product(SIZES, COLOURS, SHAPES):
            image = Image.new("RGB", (2 * CENTRE, 2 * CENTRE), "white")
            SHAPES[shape](ImageDraw.Draw(image), [CENTRE - SIZES[size]] * 2 + [CENTRE + SIZES[size]] * 2, colour)
            image.save(folder / f"{size}-{colour}-{shape}.png")
            writer.writerow([f"{size}-{colour}-{shape}.png", f"a {size} {colour} {shape}"])
    return table


@pytest.mark.slow
def test_a_table_becomes_a_served_model_without_an_edit(tmp_path: Path) -> None:
    table = write_table(tmp_path / "shapes")
    workspace = tmp_path / "shop"
    workspace.mkdir()
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    line = Line(workspace, environment_of(tmp_path) | {"PYTHONPATH": paths})
    found = line.answer("init", str(table))
    assert found["images"] == 60 and found["corpus"]["columns"] == {"image": "image", "text": "caption"}
    assert found["teacher_seconds"] > 0

    outcome = line.answer("run", "--git")
    assert outcome["version"] == outcome["roles"]["champion"] == "1"

    for colour in ("red", "blue"):
        hits = [hit["text"] for hit in line.answer("search", f"a big {colour} circle")["hits"]]
        assert len(hits) == 10 and f"a big {colour} circle" in hits[:5], hits  # one in twelve by chance

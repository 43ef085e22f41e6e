"""New pairs join the training set once, and never one that an evaluation set asks for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from components.corpus import ingest, read_pairs, read_queries
from components.corpus.additions import REPORT
from components.corpus.config import SourceSettings
from components.corpus.ingest import is_current
from components.corpus.manifest import Manifest
from components.errors import UsageError

MakeConfig = Callable[..., SourceSettings]
MakeImage = Callable[..., bytes]
PAIRS, NEW = 40, 3


@pytest.fixture
def source(tmp_path: Path, make_image: MakeImage) -> Path:
    """A folder of captioned images."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(PAIRS):
        write(folder, f"{number:02}", make_image(number), f"thing {number}")
    return folder


@pytest.fixture
def incoming(tmp_path: Path) -> Path:
    (folder := tmp_path / "incoming").mkdir()
    return folder


@pytest.fixture
def settings(config: MakeConfig, source: Path, incoming: Path) -> SourceSettings:
    return config("folder", source, name="things", eval_fraction=0.3, additions=[str(incoming)])


def write(folder: Path, name: str, image: bytes, caption: str) -> None:
    (folder / f"{name}.png").write_bytes(image)
    (folder / f"{name}.txt").write_text(caption)


def added(data: Path) -> set[str | None]:
    return {pair.query.text for pair in read_pairs(data, "added_t2i")}


def report(data: Path) -> dict[str, int]:
    counts: dict[str, int] = json.loads((data / REPORT).read_text())
    return counts


def test_new_pairs_join_the_training_set_and_nothing_else_changes(
    settings: SourceSettings, incoming: Path, tmp_path: Path, make_image: MakeImage
) -> None:
    before = ingest(settings, tmp_path / "before")
    for number in range(NEW):
        write(incoming, f"new{number}", make_image(100 + number), f"novelty {number}")
    after = ingest(settings, tmp_path / "after")
    assert added(tmp_path / "after") == {"novelty 0", "novelty 1", "novelty 2"}
    assert after.tasks.train == {**before.tasks.train, "added_t2i": NEW, "added_i2t": NEW}
    assert after.tasks.eval == before.tasks.eval
    assert after.images == before.images + NEW
    assert after.digest != before.digest
    assert report(tmp_path / "after") == {"added": NEW, "repeated": 0, "held_out": 0}


def test_what_comes_later_makes_the_data_set_out_of_date(
    settings: SourceSettings, incoming: Path, tmp_path: Path, make_image: MakeImage
) -> None:
    ingest(settings, tmp_path / "data")
    assert is_current(settings, tmp_path / "data")
    write(incoming, "new", make_image(100), "novelty")
    assert not is_current(settings, tmp_path / "data")
    ingest(settings, tmp_path / "data")
    assert is_current(settings, tmp_path / "data")


def test_a_pair_is_added_once(
    settings: SourceSettings, source: Path, incoming: Path, tmp_path: Path, make_image: MakeImage
) -> None:
    """Whether the source or the additions have it already."""
    ingest(settings, tmp_path / "before")
    (trained,) = [pair for pair in read_pairs(tmp_path / "before", "things_t2i")][:1]
    write(incoming, "a", make_image(100), "novelty")
    write(incoming, "b", make_image(100), " Novelty ")
    assert isinstance(trained.positive.image, Path)
    write(incoming, "c", trained.positive.image.read_bytes(), str(trained.query.text))
    ingest(settings, tmp_path / "after")
    assert added(tmp_path / "after") == {"novelty"}
    assert report(tmp_path / "after") == {"added": 1, "repeated": 2, "held_out": 0}


def larger(image: bytes) -> bytes:
    """The same image in another size: other bytes, nothing else to see."""
    with Image.open(io.BytesIO(image)) as opened:
        resized = opened.resize((opened.width * 2, opened.height * 2), Image.Resampling.NEAREST)
    resized.save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


def test_what_an_evaluation_set_asks_for_is_left_out(
    settings: SourceSettings, incoming: Path, tmp_path: Path, make_image: MakeImage
) -> None:
    """Its captions, its images, and images that look like one of them; a control of each kind is taken."""
    ingest(settings, tmp_path / "before")
    query = next(iter(read_queries(tmp_path / "before", "eval", "things_t2i")))
    (right,) = query.relevant
    answer = query.candidates[right].image
    assert isinstance(answer, Path)
    write(incoming, "caption", make_image(100), str(query.item.text).upper())
    write(incoming, "image", answer.read_bytes(), "another caption")
    write(incoming, "alike", larger(answer.read_bytes()), "a third caption")
    write(incoming, "fine", larger(make_image(101)), "novelty")
    ingest(settings, tmp_path / "after")
    assert added(tmp_path / "after") == {"novelty"}
    assert report(tmp_path / "after") == {"added": 1, "repeated": 0, "held_out": 3}
    assert len(list((tmp_path / "after" / "images").iterdir())) == Manifest.read(tmp_path / "before").images + 1


def test_a_table_holds_additions_too(settings: SourceSettings, tmp_path: Path, make_image: MakeImage) -> None:
    (tmp_path / "new.png").write_bytes(make_image(100))
    for columns, fine in ((("image", "text"), True), (("file", "caption"), False)):
        table = tmp_path / f"{fine}.csv"
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([columns, ("new.png", "novelty")])
        asked = settings.model_copy(update={"additions": [str(table)]})
        if fine:
            ingest(asked, tmp_path / "data")
            assert added(tmp_path / "data") == {"novelty"}
        else:
            with pytest.raises(UsageError, match="has no column 'image'"):
                ingest(asked, tmp_path / "data")


def test_places_that_are_not_there_yet_add_nothing(settings: SourceSettings, incoming: Path, tmp_path: Path) -> None:
    incoming.rmdir()
    manifest = ingest(settings, tmp_path / "data")
    assert not any(task.startswith("added") for task in manifest.tasks.train)
    assert not (tmp_path / "data" / REPORT).exists()

"""Ingest replaces the old data set only by a complete new one, byte for byte the same for the same inputs."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pytest

from components.corpus import TRAIN_SCHEMA, Manifest, ingest, is_current, layout, pairs, read_pairs
from components.corpus.config import SourceSettings
from components.errors import DataInvalid, EmbedlineError

MakeConfig = Callable[..., SourceSettings]
MakeImage = Callable[..., bytes]


def table(folder: Path, rows: int, make_image: MakeImage, images: int = 20) -> Path:
    """Writes a JSONL table of `rows` pairs over `images` images."""
    folder.mkdir(exist_ok=True)
    for number in range(images):
        (folder / f"{number}.png").write_bytes(make_image(number))
    with (folder / "pairs.jsonl").open("w") as file:
        for number in range(rows):
            file.write(json.dumps({"image": f"{number % images}.png", "text": f"caption {number}"}) + "\n")
    return folder / "pairs.jsonl"


def contents(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_the_same_inputs_make_the_same_bytes(tmp_path: Path, config: MakeConfig, make_image: MakeImage) -> None:
    section = config("table", table(tmp_path / "source", 60, make_image), eval_fraction=0.3, dev_fraction=0.2)
    ingest(section, tmp_path / "one")
    for file in (tmp_path / "source").iterdir():
        os.utime(file, (1, 1))
    ingest(section, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    other = ingest(section.model_copy(update={"seed": 8}), tmp_path / "three")
    assert other.digest != Manifest.read(tmp_path / "one").digest


def test_a_data_set_is_current_until_its_section_or_an_input_changes(
    tmp_path: Path, config: MakeConfig, make_image: MakeImage
) -> None:
    file = table(tmp_path / "source", 30, make_image)
    section = config("table", file)
    assert not is_current(section, tmp_path / "data")
    ingest(section, tmp_path / "data")
    assert is_current(section, tmp_path / "data")
    assert not is_current(section.model_copy(update={"eval_fraction": 0.5}), tmp_path / "data")
    (file.parent / "3.png").write_bytes(make_image(99))
    assert not is_current(section, tmp_path / "data")


def test_a_failed_ingest_keeps_the_old_data_set(tmp_path: Path, config: MakeConfig, make_image: MakeImage) -> None:
    file = table(tmp_path / "source", 30, make_image)
    ingest(config("table", file), tmp_path / "data")
    before = contents(tmp_path / "data")
    (file.parent / "3.png").write_bytes(b"broken")
    with pytest.raises(DataInvalid, match="2 broken image"):
        ingest(config("table", file), tmp_path / "data")
    with pytest.raises(EmbedlineError):
        ingest(config("table", tmp_path / "none.csv"), tmp_path / "data")
    assert contents(tmp_path / "data") == before


def test_images_that_are_no_longer_named_are_gone(tmp_path: Path, config: MakeConfig, make_image: MakeImage) -> None:
    ingest(config("table", table(tmp_path / "source", 30, make_image)), tmp_path / "data")
    assert ingest(config("table", table(tmp_path / "source", 5, make_image)), tmp_path / "data").images == 5
    assert len(list((tmp_path / "data" / "images").iterdir())) == 5


def test_an_ingest_killed_in_the_middle_leaves_the_old_data_set_and_the_next_one_is_clean(
    tmp_path: Path, config: MakeConfig, make_image: MakeImage
) -> None:
    ingest(config("table", table(tmp_path / "old", 10, make_image)), tmp_path / "data")
    before = contents(tmp_path / "data")
    section = config("table", table(tmp_path / "new", 20_000, make_image, images=2_000))
    code = (
        "import sys; from pathlib import Path;"
        "import json; from components.corpus.config import SOURCES; from components.corpus import ingest;"
        "ingest(SOURCES.validate(json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, section.model_dump_json(), str(tmp_path / "data")]
    images = tmp_path / ".data.partial" / "images"
    process = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    try:
        deadline = time.monotonic() + 60
        while not (images.is_dir() and len(list(images.iterdir())) > 100):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert images.is_dir()
    assert contents(tmp_path / "data") == before

    section = config("table", table(tmp_path / "new", 100, make_image, images=50))
    assert ingest(section, tmp_path / "data").images == 50
    assert not list(tmp_path.glob(".data*"))
    ingest(section, tmp_path / "untouched")
    assert contents(tmp_path / "data") == contents(tmp_path / "untouched")


def test_the_old_data_set_comes_back_if_the_kill_fell_between_the_two_renames(
    tmp_path: Path, config: MakeConfig, make_image: MakeImage
) -> None:
    section = config("table", table(tmp_path / "source", 10, make_image))
    ingest(section, tmp_path / "data")
    before = contents(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / ".data.old")
    with pytest.raises(EmbedlineError):
        ingest(config("table", tmp_path / "none.csv"), tmp_path / "data")
    assert contents(tmp_path / "data") == before
    shutil.copytree(tmp_path / "data", tmp_path / ".data.old")
    ingest(section, tmp_path / "data")
    assert not list(tmp_path.glob(".data*"))


def peaks(sections: list[SourceSettings], data: Path) -> list[tuple[int, int]]:
    """Returns the most bytes that Python and Arrow held while each section was ingested and read.

    The buffers are made small, so that they are full long before the rows end.
    """
    layout.ROWS_PER_GROUP[TRAIN_SCHEMA] = layout.REMEMBERED_ITEMS = 256
    pairs.LARGEST_EVALUATION_SET = 50
    found = []
    for section in sections:
        pa.set_memory_pool(counted := pa.proxy_memory_pool(pa.system_memory_pool()))
        tracemalloc.start()
        ingest(section, data)
        assert sum(1 for _ in read_pairs(data)) > 100
        found.append((tracemalloc.get_traced_memory()[1], counted.max_memory()))
        tracemalloc.stop()
    return found


@pytest.mark.slow
def test_memory_grows_by_less_than_a_kilobyte_with_each_row(
    tmp_path: Path, config: MakeConfig, make_image: MakeImage
) -> None:
    sections = [  # the first one imports what the others measure
        config("table", table(tmp_path / str(rows), rows, make_image), eval_fraction=0.2)
        for rows in (100, 2_000, 12_000)
    ]
    with ProcessPoolExecutor(
        1, get_context("spawn")
    ) as pool:  # the other tests would leave their traces in this process
        _, few, many = pool.submit(peaks, sections, tmp_path / "data").result(timeout=120)
    assert many[0] - few[0] < 1_000 * 10_000, (few, many)
    assert many[1] < 1.2 * few[1], (few, many)

"""Image-text pairs of a table, a Hugging Face data set or WebDataset tars become training rows and held-out sets."""

import csv
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import components.corpus.pairs
from components.corpus import ingest, read_pairs, read_queries
from components.corpus.config import SourceSettings
from components.corpus.pairs import retrieval_rows
from components.errors import DataInvalid, UsageError

MakeConfig = Callable[..., SourceSettings]
MakeImage = Callable[..., bytes]
PAIRS = 40


@pytest.fixture
def shop(tmp_path: Path, make_image: MakeImage) -> Path:
    """A folder with images, and a CSV, a JSONL and two Parquet files that name the same pairs."""
    folder = tmp_path / "shop"
    (folder / "images").mkdir(parents=True)
    rows = [{"file": f"images/{number}.png", "caption": f"thing {number}"} for number in range(PAIRS)]
    for number, row in enumerate(rows):
        (folder / row["file"]).write_bytes(make_image(number))
    with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "caption"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    held = [
        {"file": {"bytes": make_image(number), "path": None}, "caption": row["caption"]}
        for number, row in enumerate(rows)
    ]
    (folder / "parts").mkdir()
    pq.write_table(pa.Table.from_pylist(held[:9]), folder / "parts" / "0.parquet")
    pq.write_table(pa.Table.from_pylist(held[9:]), folder / "parts" / "1.parquet")
    features = datasets.Features({"file": datasets.Image(), "caption": datasets.Value("string")})
    saved = datasets.Dataset.from_list(held, features=features)
    saved.save_to_disk(folder / "saved")
    halves = {"train": saved.select(range(9)), "validation": saved.select(range(9, PAIRS))}
    datasets.DatasetDict(halves).save_to_disk(folder / "split")
    (folder / "tars").mkdir()
    for shard, numbers in enumerate((range(9), range(9, PAIRS))):
        with tarfile.open(folder / "tars" / f"{shard}.tar", "w") as tar:
            for number in numbers:
                add(tar, f"things/{number:03}.png", make_image(number))
                add(tar, f"things/{number:03}.txt", f"thing {number}".encode())
    (folder / "captioned" / "below").mkdir(parents=True)
    for number, row in enumerate(rows):
        place = folder / "captioned" / ("below" if number % 2 else "") / f"{number}.png"
        place.write_bytes(make_image(number))
        place.with_suffix(".txt").write_text(f"\n{row['caption']}\nde=etwas\n", encoding="utf-8")
    return folder


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


MAPPED = {"image": "file", "text": "caption"}
SOURCES = [
    ("table", "pairs.csv", MAPPED),
    ("table", "pairs.jsonl", MAPPED),
    ("table", "pairs.parquet", MAPPED),
    ("dataset", "parts", MAPPED),
    ("dataset", "saved", MAPPED),
    ("dataset", "split", MAPPED),
    ("webdataset", "tars", {}),
    ("folder", "captioned", None),
]


def captions(data: Path) -> set[tuple[bytes, str | None]]:
    """Returns every `(image, text)` that the data set holds as a truth, in training and held-out rows."""
    found = set()
    for pair in read_pairs(data, "shop_t2i"):
        assert isinstance(pair.positive.image, Path)
        found.add((pair.positive.image.read_bytes(), pair.query.text))
    for split in ("dev", "eval"):
        for query in read_queries(data, split, "shop_t2i"):
            for position in query.relevant:
                image = query.candidates[position].image
                assert isinstance(image, Path)
                found.add((image.read_bytes(), query.item.text))
    return found


@pytest.mark.parametrize(("source", "location", "columns"), SOURCES)
def test_every_source_gives_the_same_pairs_in_both_directions(
    tmp_path: Path,
    shop: Path,
    config: MakeConfig,
    make_image: MakeImage,
    source: str,
    location: str,
    columns: dict[str, str] | None,
) -> None:
    data = tmp_path / "data"
    mapped = {} if columns is None else {"columns": columns}
    section = config(source, shop / location, **mapped, eval_fraction=0.3, dev_fraction=0.3)
    manifest = ingest(section, data)
    assert captions(data) == {(make_image(number), f"thing {number}") for number in range(PAIRS)}
    tasks = manifest.tasks
    assert tasks.train.keys() == tasks.dev.keys() == tasks.eval.keys() == {"shop_t2i", "shop_i2t"}
    assert tasks.train["shop_t2i"] + tasks.dev["shop_t2i"].rows + tasks.eval["shop_t2i"].rows == PAIRS
    assert tasks.eval["shop_i2t"].meta_task == "retrieval"
    assert (manifest.images, manifest.quarantined) == (PAIRS, 0)
    assert {(pair.query.text, pair.positive.image) for pair in read_pairs(data, "shop_t2i")} == {
        (pair.positive.text, pair.query.image) for pair in read_pairs(data, "shop_i2t")
    }
    query = next(read_queries(data, "eval", "shop_i2t"))
    assert query.item.instruction == "Find an image caption describing the given image."


def test_which_images_are_held_out_follows_from_the_seed_and_not_from_the_order(
    tmp_path: Path, shop: Path, config: MakeConfig
) -> None:
    lines = (shop / "pairs.csv").read_text().splitlines()
    (shop / "turned.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))

    def held_out(location: str, seed: int) -> set[str | None]:
        section = config("table", shop / location, columns=MAPPED, eval_fraction=0.4, seed=seed)
        ingest(section, tmp_path / "data")
        return {query.item.text for query in read_queries(tmp_path / "data", "eval", "shop_t2i")}

    assert held_out("pairs.csv", 1) == held_out("turned.csv", 1) != held_out("pairs.csv", 2)


def test_all_captions_of_one_image_are_on_the_same_side_and_all_are_relevant(
    tmp_path: Path, shop: Path, config: MakeConfig
) -> None:
    rows = [f"images/{number}.png,{kind} {number}" for kind in ("thing", "object") for number in range(PAIRS)]
    (shop / "twice.csv").write_text("\n".join(["image,text", *rows]))
    data = tmp_path / "data"
    ingest(config("table", shop / "twice.csv", eval_fraction=0.4), data)
    queries = list(read_queries(data, "eval", "shop_i2t"))
    trained = {pair.query.image for pair in read_pairs(data, "shop_i2t")}
    assert queries
    assert trained.isdisjoint(query.item.image for query in queries)
    for query in queries:
        assert isinstance(query.item.image, Path)
        texts = [query.candidates[position].text or "" for position in query.relevant]
        assert {text.split()[0] for text in texts} == {"thing", "object"}
        assert len({text.split()[1] for text in texts}) == 1


def test_the_truth_is_not_recognisable_by_its_position() -> None:
    t2i, i2t = retrieval_rows([(f"{number}.png", str(number), number) for number in range(200)], "seed")
    for rows in (t2i, i2t):
        assert sum(row["label"] == [position] for position, row in enumerate(rows)) < 10
        assert sorted(row["label"][0] for row in rows) == list(range(200))


def test_held_out_pairs_and_their_images_are_bounded_to_those_with_the_smallest_hashes(
    tmp_path: Path, shop: Path, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held_out(largest: int) -> list[str | None]:
        monkeypatch.setattr(components.corpus.pairs, "LARGEST_EVALUATION_SET", largest)
        section = config("table", shop / "pairs.csv", columns=MAPPED, eval_fraction=0.6)
        manifest = ingest(section, tmp_path / "data")
        assert manifest.images == len(list((tmp_path / "data" / "images").iterdir()))
        assert manifest.images == manifest.tasks.train["shop_t2i"] + manifest.tasks.eval["shop_t2i"].rows
        return [query.item.text for query in read_queries(tmp_path / "data", "eval", "shop_t2i")]

    assert held_out(1000)[:5] == held_out(5)
    assert len(held_out(1000)) > 15


@pytest.mark.parametrize(
    ("reason", "row"),
    [
        ("missing image", {"image": "images/none.png", "text": "a"}),
        ("missing image", {"image": "", "text": "a"}),
        ("missing image", {"text": "a"}),
        ("broken image", {"image": "pairs.csv", "text": "a"}),
        ("no content", {"image": "images/1.png", "text": " "}),
        ("no content", {"image": "images/1.png"}),
        ("wrong type", {"image": "images/1.png", "text": 3}),
        ("wrong type", {"image": 3, "text": "a"}),
        ("wrong type", ["images/1.png", "a"]),
        ("wrong type", {"image": "images/1.png", "text": "\ud800"}),
        ("unsafe path", {"image": "../secret.png", "text": "a"}),
    ],
)
def test_faulty_rows_of_a_table_are_quarantined(
    tmp_path: Path, shop: Path, config: MakeConfig, make_image: MakeImage, reason: str, row: Any
) -> None:
    (tmp_path / "secret.png").write_bytes(make_image(77))
    good = {"image": "images/1.png", "text": "a"}
    (shop / "some.jsonl").write_text("\n".join(json.dumps(each) for each in (good, row, good)))
    ingest(config("table", shop / "some.jsonl", quarantine_limit=0.4), tmp_path / "data")
    (line,) = (tmp_path / "data" / "quarantine.jsonl").read_text().splitlines()
    assert (json.loads(line)["file"], json.loads(line)["row"], json.loads(line)["reason"]) == ("some.jsonl", 1, reason)
    assert len(list(read_pairs(tmp_path / "data", "shop_t2i"))) == 2


def test_an_absolute_image_path_is_read(tmp_path: Path, shop: Path, config: MakeConfig) -> None:
    (tmp_path / "pairs.csv").write_text(f"image,text\n{shop / 'images' / '1.png'},a\n")
    assert ingest(config("table", tmp_path / "pairs.csv"), tmp_path / "data").images == 1


def test_a_column_that_is_not_there_is_named_beside_those_that_are(
    tmp_path: Path, shop: Path, config: MakeConfig
) -> None:
    for source, location in (("table", "pairs.csv"), ("table", "pairs.parquet"), ("dataset", "saved")):
        with pytest.raises(UsageError, match="no column 'image'") as caught:
            ingest(config(source, shop / location), tmp_path / "data")
        assert "file, caption" in caught.value.remedy


@pytest.mark.parametrize(
    ("source", "location", "message"),
    [
        ("table", "none.csv", "does not exist"),
        ("table", "images/1.png", "a table ends in"),
        ("webdataset", "images", "holds no tar"),
        ("dataset", "images", "holds no data set"),
    ],
)
def test_a_wrong_location_is_explained(
    tmp_path: Path, shop: Path, config: MakeConfig, source: str, location: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ingest(config(source, location and shop / location), tmp_path / "data")
    assert not (tmp_path / ".data.partial").exists()


def test_text_that_is_not_utf_8_and_empty_tables_are_invalid(tmp_path: Path, config: MakeConfig) -> None:
    (tmp_path / "latin.csv").write_bytes("image,text\na.png,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataInvalid, match=r"latin\.csv cannot be read"):
        ingest(config("table", tmp_path / "latin.csv"), tmp_path / "data")
    (tmp_path / "empty.csv").write_text("image,text\n")
    with pytest.raises(DataInvalid, match="no usable row"):
        ingest(config("table", tmp_path / "empty.csv"), tmp_path / "data")


def test_the_text_of_a_sample_may_be_a_field_of_its_json(
    tmp_path: Path, config: MakeConfig, make_image: MakeImage
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.jpg", make_image(1, kind="JPEG"))
        add(tar, "1.json", b'{"caption": "short", "title": "long"}')
    for columns, text in (({}, "short"), ({"text": "title"}, "long")):
        ingest(config("webdataset", tmp_path / "a.tar", columns=columns), tmp_path / "data")
        assert [pair.query.text for pair in read_pairs(tmp_path / "data", "shop_t2i")] == [text]


def test_faulty_samples_and_unsafe_names_of_a_tar_are_quarantined(
    tmp_path: Path, config: MakeConfig, make_image: MakeImage
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "good.png", make_image(1))
        add(tar, "good.txt", b"good")
        add(tar, "alone.png", make_image(2))
        add(tar, "latin.png", make_image(3))
        add(tar, "latin.txt", "caf\xe9".encode("latin-1"))
        add(tar, "text.txt", b"no image")
        add(tar, "list.png", make_image(4))
        add(tar, "list.json", b"[1]")
        add(tar, "../out.png", make_image(5))
    ingest(config("webdataset", tmp_path / "a.tar", quarantine_limit=0.9), tmp_path / "data")
    lines = (tmp_path / "data" / "quarantine.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["reason"] for line in lines) == [
        "missing image", "no content", "unsafe path", "wrong type", "wrong type",
    ]  # fmt: skip
    assert len(list(read_pairs(tmp_path / "data", "shop_t2i"))) == 1


def test_a_truncated_shard_is_invalid(tmp_path: Path, shop: Path, config: MakeConfig) -> None:
    shard = shop / "tars" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(DataInvalid, match=r"1\.tar is broken"):
        ingest(config("webdataset", shop / "tars"), tmp_path / "data")


def test_a_name_of_the_hub_that_is_not_cached_says_how_to_reach_the_hub(tmp_path: Path, config: MakeConfig) -> None:
    with pytest.raises(UsageError, match="no local directory and not in the cache") as caught:
        ingest(config("dataset", "nobody/nothing"), tmp_path / "data")
    assert "HF_HUB_OFFLINE=0" in caught.value.remedy


def test_a_data_set_in_the_cache_of_the_hub_is_read_without_network(
    tmp_path: Path, shop: Path, config: MakeConfig
) -> None:
    cache = tmp_path / "cache"
    datasets.load_dataset("parquet", data_files=str(shop / "parts" / "0.parquet"), cache_dir=str(cache))
    (made,) = (folder for folder in cache.glob("parquet/*/*/*") if folder.is_dir())
    kept = cache / "somebody___things" / "default" / "0.0.0" / "0123456789abcdef"
    kept.parent.mkdir(parents=True)
    made.rename(kept)
    for file in kept.glob("parquet-*.arrow"):
        file.rename(kept / file.name.replace("parquet", "things"))
    section = config("dataset", "somebody/things", columns=MAPPED)
    code = (
        "import components, sys; from pathlib import Path; from components.corpus.config import SOURCES; import json;"
        "from components.corpus import ingest;"
        "print(ingest(SOURCES.validate(json.loads(sys.argv[1])), Path(sys.argv[2])).model_dump_json())"
    )
    environment = os.environ | {"HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path.cwd())}
    arguments = [sys.executable, "-c", code, section.model_dump_json(), str(tmp_path / "data")]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["inputs"]["somebody/things"]["version"] == "0123456789abcdef"
    assert manifest["tasks"]["train"] == {"shop_i2t": 9, "shop_t2i": 9}

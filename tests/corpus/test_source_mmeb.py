"""A folder or archive in MMEB's layout becomes a data set; what cannot be used is quarantined with its reason."""

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.corpus import Manifest, ingest, read_pairs, read_queries
from components.corpus.config import SourceSettings
from components.errors import DataInvalid, UsageError

MakeConfig = Callable[..., SourceSettings]
MakeImage = Callable[..., bytes]

PAIR = {
    "qry": "<|image_1|> Represent the given image for classification.",
    "qry_image_path": "birds/1.jpg",
    "pos_text": "sparrow",
    "pos_image_path": "",
    "neg_text": "",
    "neg_image_path": "",
}
QUERY_V1 = {
    "qry_text": "Find me an everyday image that matches the given caption: a bird",
    "qry_img_path": "",
    "tgt_text": "",
    "tgt_img_path": ["birds/1.jpg", "birds/2.png"],
}
QUERY_V2 = {
    "qry_inst": "Find me an image that matches the given caption.",
    "qry_text": "a bird",
    "qry_img_path": "",
    "tgt_inst": "<|image_1|> Represent the given image.",
    "tgt_text": ["", ""],
    "tgt_img_path": ["birds/1.jpg", "birds/2.png"],
    "label": [1],
}


def jsonl(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


@pytest.fixture
def folder(tmp_path: Path, make_image: MakeImage) -> Path:
    """A source with two images and no rows."""
    source = tmp_path / "source"
    (source / "images" / "birds").mkdir(parents=True)
    (source / "images" / "birds" / "1.jpg").write_bytes(make_image(1, kind="JPEG"))
    (source / "images" / "birds" / "2.png").write_bytes(make_image(2))
    return source


def quarantined(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "quarantine.jsonl").read_text().splitlines()]


def test_both_forms_of_queries_and_the_training_rows_are_taken_over(
    tmp_path: Path, folder: Path, config: MakeConfig
) -> None:
    parquet(folder / "train" / "ImageNet_1K.parquet", [PAIR])
    parquet(folder / "eval" / "MSCOCO_t2i.parquet", [QUERY_V1])
    jsonl(folder / "eval" / "birds.jsonl", [QUERY_V2])
    jsonl(folder / "dev" / "ImageNet_1K.jsonl", [QUERY_V2])
    data = tmp_path / "data"
    manifest = ingest(config("mmeb", folder), data)

    assert Manifest.read(data) == manifest
    assert (data / "images/birds/1.jpg").read_bytes() == (folder / "images/birds/1.jpg").read_bytes()
    assert (manifest.images, manifest.quarantined, manifest.licence) == (2, 0, ["CC0-1.0"])
    assert manifest.tasks.train == {"ImageNet_1K": 1}
    assert manifest.tasks.eval["MSCOCO_t2i"].model_dump() == {
        "rows": 1, "candidates": 2, "meta_task": "retrieval", "distribution": "IND",
    }  # fmt: skip
    assert (manifest.tasks.eval["birds"].distribution, manifest.tasks.dev["ImageNet_1K"].distribution) == ("OOD", "IND")

    (pair,) = read_pairs(data)
    assert pair.query.text == "Represent the given image for classification."
    assert (pair.query.instruction, pair.positive.text, pair.negatives) == (None, "sparrow", ())
    (first,) = read_queries(data, "eval", "MSCOCO_t2i")
    assert (first.item.instruction, first.relevant, first.candidates[0].text) == (None, {0: 1.0}, None)
    (second,) = read_queries(data, "eval", "birds")
    assert second.item.instruction == "Find me an image that matches the given caption."
    assert second.candidates[1].instruction == "Represent the given image."
    assert second.relevant == {1: 1.0}


def test_the_hubs_own_folders_and_shards_are_read(tmp_path: Path, folder: Path, config: MakeConfig) -> None:
    for shard in range(2):
        parquet(folder / "VOC2007" / f"original-0000{shard}-of-00002.parquet", [PAIR | {"pos_text": f"bird {shard}"}])
    parquet(folder / "VOC2007" / "diverse_instruction-00000-of-00001.parquet", [PAIR])
    parquet(folder / "VOC2007" / "test-00000-of-00001.parquet", [QUERY_V1])
    shutil.move(folder / "images" / "birds", folder / "birds")
    manifest = ingest(config("mmeb", folder), tmp_path / "data")
    assert manifest.tasks.train == {"VOC2007": 2}
    assert manifest.tasks.eval["VOC2007"].meta_task == "classification"
    assert [pair.positive.text for pair in read_pairs(tmp_path / "data")] == ["bird 0", "bird 1"]


@pytest.mark.parametrize(
    "hard",
    [
        {"neg_text": "['robin', \"it's\"]", "neg_image_path": "['', 'birds/2.png']"},
        {"neg_text": ["robin", "it's"], "neg_image_path": ["", "birds/2.png"]},
    ],
)
def test_several_negatives_are_kept(tmp_path: Path, folder: Path, config: MakeConfig, hard: dict[str, Any]) -> None:
    jsonl(folder / "train" / "t.jsonl", [PAIR | hard])
    ingest(config("mmeb", folder), tmp_path / "data")
    (pair,) = read_pairs(tmp_path / "data")
    assert [item.text for item in pair.negatives] == ["robin", "it's"]
    assert pair.negatives[1].image == tmp_path / "data" / "images" / "birds" / "2.png"


def test_a_row_that_alone_has_label_and_instruction_keeps_them(
    tmp_path: Path, folder: Path, config: MakeConfig
) -> None:
    jsonl(folder / "eval" / "t.jsonl", [QUERY_V1, QUERY_V2])
    ingest(config("mmeb", folder), tmp_path / "data")
    assert [query.relevant for query in read_queries(tmp_path / "data", "eval", "t")] == [{0: 1.0}, {1: 1.0}]


BROKEN_PAIRS = [
    ("missing image", {"qry_image_path": "birds/3.jpg"}),
    ("missing image", {"neg_image_path": "birds/3.jpg"}),
    ("broken image", {"qry_image_path": "broken.png"}),
    ("broken image", {"qry_image_path": "cut.png"}),
    ("image too large", {"qry_image_path": "wide.png"}),
    ("image too large", {"qry_image_path": "heavy.png"}),
    ("no content", {"qry": "<|image_1|> ", "qry_image_path": ""}),
    ("no content", {"pos_text": "  "}),
    ("no content", {"pos_text": None}),
    ("wrong type", {"pos_text": 5}),
    ("wrong type", {"qry_image_path": ["birds/1.jpg"]}),
    ("wrong type", {"pos_text": "\ud800"}),
    ("wrong type", {"neg_text": "['a', 'b']", "neg_image_path": "['']"}),
    ("unsafe path", {"qry_image_path": "../secret.png"}),
    ("unsafe path", {"qry_image_path": "birds/../../secret.png"}),
    ("unsafe path", {"qry_image_path": "/etc/secret.png"}),
    ("unsafe path", {"qry_image_path": "..\\secret.png"}),
    ("unsafe path", {"qry_image_path": "a" * 300}),
]  # fmt: skip
BROKEN_QUERIES = [
    ("no candidates", {"tgt_text": [], "tgt_img_path": []}),
    ("no candidates", {"tgt_text": "", "tgt_img_path": []}),
    ("no content", {"qry_text": ""}),
    ("no content", {"tgt_img_path": ["birds/1.jpg", ""]}),
    ("wrong type", {"tgt_text": [""]}),
    ("wrong type", {"tgt_text": ["", 5]}),
    ("wrong type", {"label": 1}),
    ("wrong type", {"label": [True]}),
    ("wrong label", {"label": [2]}),
    ("wrong label", {"label": [-1]}),
    ("wrong label", {"label": []}),
    ("wrong label", {"label": [1, 1]}),
    ("missing image", {"tgt_img_path": ["birds/1.jpg", "birds/9.jpg"]}),
    ("unsafe path", {"tgt_img_path": ["birds/1.jpg", "../secret.png"]}),
]


@pytest.mark.parametrize(("reason", "change"), BROKEN_PAIRS + BROKEN_QUERIES)
def test_each_fault_is_quarantined_with_its_reason_and_the_rows_around_it_are_kept(
    tmp_path: Path, folder: Path, config: MakeConfig, make_image: MakeImage, reason: str, change: dict[str, Any]
) -> None:
    (tmp_path / "secret.png").write_bytes(make_image(9))
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "cut.png").write_bytes(make_image(4, size=(64, 64))[:90])
    (folder / "wide.png").write_bytes(
        make_image(5, size=(40_001, 1_000)) if change.get("qry_image_path") == "wide.png" else b""
    )
    (folder / "heavy.png").write_bytes(make_image(6) + b"\0" * 20_000_000 if "heavy.png" in change.values() else b"")
    pair = (reason, change) in BROKEN_PAIRS
    good, file = (PAIR, "train/t.jsonl") if pair else (QUERY_V2, "eval/t.jsonl")
    jsonl(folder / file, [good, good | change, good])
    data = tmp_path / "data"
    manifest = ingest(config("mmeb", folder, quarantine_limit=0.5), data)
    (line,) = quarantined(data)
    assert (line["file"], line["row"], line["reason"]) == (file, 1, reason)
    assert line["detail"]
    assert manifest.quarantined == 1
    assert len(list(read_pairs(data) if pair else read_queries(data, "eval", "t"))) == 2
    assert not any(path.name == "secret.png" for path in tmp_path.rglob("data/**/*"))


def test_a_line_that_is_not_json_and_a_missing_column_are_quarantined(
    tmp_path: Path, folder: Path, config: MakeConfig
) -> None:
    jsonl(folder / "train" / "t.jsonl", [PAIR])
    with (folder / "train" / "t.jsonl").open("a") as file:
        file.write('{"qry": \n[1]\n{"qry": "alone"}\n')
    ingest(config("mmeb", folder, quarantine_limit=0.8), tmp_path / "data")
    assert [(line["row"], line["reason"]) for line in quarantined(tmp_path / "data")] == [
        (1, "wrong type"), (2, "wrong type"), (3, "wrong type"),
    ]  # fmt: skip


def test_above_the_limit_the_message_counts_the_reasons_and_names_the_file(
    tmp_path: Path, folder: Path, config: MakeConfig
) -> None:
    jsonl(folder / "train" / "t.jsonl", [PAIR, PAIR | {"pos_text": ""}, PAIR | {"qry_image_path": "no.png"}, PAIR])
    with pytest.raises(DataInvalid, match=r"2 of 4 rows are quarantined \(1 missing image, 1 no content\)") as caught:
        ingest(config("mmeb", folder, quarantine_limit=0.49), tmp_path / "data")
    assert caught.value.exit_code == 4
    named = tmp_path / ".data.partial" / "quarantine.jsonl"
    assert str(named) in caught.value.remedy
    assert len(named.read_text().splitlines()) == 2
    assert not (tmp_path / "data").exists()
    assert ingest(config("mmeb", folder, quarantine_limit=0.5), tmp_path / "data").quarantined == 2
    assert not named.exists()


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_data_set_without_rows_is_invalid(tmp_path: Path, folder: Path, config: MakeConfig, limit: float) -> None:
    jsonl(folder / "train" / "t.jsonl", [PAIR | {"pos_text": ""}] if limit else [])
    with pytest.raises(DataInvalid, match="holds no usable row"):
        ingest(config("mmeb", folder, quarantine_limit=limit), tmp_path / "data")


def test_a_folder_without_the_layout_is_refused_with_what_is_expected(
    tmp_path: Path, folder: Path, config: MakeConfig
) -> None:
    with pytest.raises(UsageError, match="no rows in MMEB's layout"):
        ingest(config("mmeb", folder), tmp_path / "data")


def test_a_broken_parquet_file_is_named(tmp_path: Path, folder: Path, config: MakeConfig) -> None:
    (folder / "train").mkdir()
    (folder / "train" / "t.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataInvalid, match=r"t\.parquet cannot be read"):
        ingest(config("mmeb", folder), tmp_path / "data")


def packed(folder: Path, archive: Path, top: str) -> Path:
    """Packs `folder` below the folder `top` ("." for none) of the archive."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in files:
                zipped.write(file, Path(top, file.relative_to(folder)))
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
            for file in files:
                tar.add(file, Path(top, file.relative_to(folder)))
    return archive


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz"])
@pytest.mark.parametrize("top", [".", "MMEB"])
def test_an_archive_makes_the_same_rows_as_its_folder(
    tmp_path: Path, folder: Path, config: MakeConfig, name: str, top: str
) -> None:
    parquet(folder / "train" / "t.parquet", [PAIR])
    jsonl(folder / "eval" / "t.jsonl", [QUERY_V2])
    of_folder = ingest(config("mmeb", folder), tmp_path / "one")
    of_archive = ingest(config("mmeb", packed(folder, tmp_path / name, top)), tmp_path / "two")
    assert of_archive.digest == of_folder.digest
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == [
        "eval", "images", "manifest.json", "quarantine.jsonl", "train",
    ]  # fmt: skip


def evil_tar(folder: Path, archive: Path, content: bytes) -> Iterator[str]:
    packed(folder, archive, ".")
    with tarfile.open(archive, "a") as tar:
        for name in ("../escaped.png", "/tmp/../escaped.png", "images/../../escaped.png"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
            yield name
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo("images/link.png")
            link.type, link.linkname = kind, "../../../secret.png"
            tar.addfile(link)
            yield link.name


def test_names_and_links_that_lead_out_of_a_tar_are_quarantined(
    tmp_path: Path, folder: Path, config: MakeConfig, make_image: MakeImage
) -> None:
    jsonl(folder / "train" / "t.jsonl", [PAIR])
    names = list(evil_tar(folder, tmp_path / "evil.tar", make_image(9)))
    ingest(config("mmeb", tmp_path / "evil.tar", quarantine_limit=0.9), tmp_path / "inner" / "data")
    lines = quarantined(tmp_path / "inner" / "data")
    assert [line["reason"] for line in lines] == ["unsafe path"] * len(names)
    assert not list(tmp_path.rglob("escaped.png"))
    assert not list(tmp_path.rglob("link.png"))


def test_names_that_lead_out_of_a_zip_are_quarantined(
    tmp_path: Path, folder: Path, config: MakeConfig, make_image: MakeImage
) -> None:
    jsonl(folder / "train" / "t.jsonl", [PAIR])
    packed(folder, tmp_path / "evil.zip", ".")
    with zipfile.ZipFile(tmp_path / "evil.zip", "a") as zipped:
        zipped.writestr("../escaped.png", make_image(9))
    ingest(config("mmeb", tmp_path / "evil.zip", quarantine_limit=0.9), tmp_path / "inner" / "data")
    assert [line["detail"] for line in quarantined(tmp_path / "inner" / "data")] == ["../escaped.png"]
    assert not list(tmp_path.rglob("escaped.png"))


@pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz"])
def test_a_truncated_archive_is_invalid(tmp_path: Path, folder: Path, config: MakeConfig, name: str) -> None:
    jsonl(folder / "train" / "t.jsonl", [PAIR] * 100)
    archive = packed(folder, tmp_path / name, ".")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 3])
    with pytest.raises(DataInvalid, match="is broken"):
        ingest(config("mmeb", archive), tmp_path / "data")

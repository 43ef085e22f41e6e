from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.errors import DataInvalid, UsageError
from components.evaluation.benchmark import Task, read_benchmark
from components.evaluation.loaders import IMAGE_LAYOUTS, ImageSet, image_set
from tests.evaluation.loaders.conftest import V2, contents, cut_short, write_image, write_parquet

IMAGES = ["CIRR/a.jpg", "CIRR/b.jpg", "CIRR/more/c.jpg"]
V1 = read_benchmark("mmeb-v1").tasks


def rows(**changes: Any) -> list[dict[str, Any]]:
    row = {
        "qry_text": "<|image_1|>\nFind it\n",
        "qry_img_path": IMAGES[0],
        "tgt_text": ["", ""],
        "tgt_img_path": IMAGES[1:],
    }
    return [row | changes, row | changes | {"tgt_img_path": IMAGES[:0:-1]}]


def v1(**changes: Any) -> Task:
    return V1["CIRR"].model_copy(update={"queries": 2, "candidates": 2} | changes)


def v2(**changes: Any) -> Task:
    return V2["CIRR"].model_copy(update={"queries": 2, "candidates": 2} | changes)


def write_images(folder: Path) -> None:
    for path in IMAGES:
        write_image(folder / path)


@pytest.fixture
def eval_mirror(tmp_path: Path) -> Path:
    """TIGER-Lab/MMEB-eval, its images.zip unpacked as its authors say."""
    write_parquet(tmp_path / "TIGER-Lab/MMEB-eval/CIRR/test-00000-of-00001.parquet", rows())
    write_images(tmp_path / "TIGER-Lab/MMEB-eval/eval_images")
    return tmp_path


def test_mmeb_eval_is_found_with_its_images(eval_mirror: Path) -> None:
    repository = eval_mirror / "TIGER-Lab/MMEB-eval"
    found = ImageSet([repository / "CIRR/test-00000-of-00001.parquet"], repository / "eval_images")
    assert image_set("CIRR", v1(), eval_mirror) == found
    assert image_set("CIRR", v1(), repository) == found, "the mirror may be the one repository that it needs"


def test_the_images_of_mmeb_v2_serve_both_layouts(tmp_path: Path) -> None:
    instruct = rows(qry_inst="Find it", tgt_inst="Represent it")
    eval_file = write_parquet(tmp_path / "MMEB-eval/CIRR/test-00000-of-00001.parquet", rows())
    file = write_parquet(tmp_path / "ziyjiang/MMEB_Test_Instruct/CIRR/test-00000-of-00001.parquet", instruct)
    images = tmp_path / "TIGER-Lab/MMEB-V2/image-tasks/MMEB"
    write_images(images)
    assert image_set("CIRR", v2(), tmp_path) == ImageSet([file], images)
    assert image_set("CIRR", v1(), tmp_path) == ImageSet([eval_file], images)


def test_shards_come_in_the_order_of_their_numbers(eval_mirror: Path) -> None:
    folder = eval_mirror / "TIGER-Lab/MMEB-eval/CIRR"
    (folder / "test-00000-of-00001.parquet").unlink()
    files = [write_parquet(folder / f"test-{number:05}-of-00011.parquet", rows()) for number in range(11)]
    assert image_set("CIRR", v1(queries=22), eval_mirror).files == files
    files[4].unlink()
    with pytest.raises(DataInvalid, match=r"test-00004-of-00011.parquet is missing"):
        image_set("CIRR", v1(queries=22), eval_mirror)


@pytest.mark.parametrize("column", ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"])
def test_a_column_that_is_missing_is_named_beside_those_that_are_there(eval_mirror: Path, column: str) -> None:
    file = eval_mirror / "TIGER-Lab/MMEB-eval/CIRR/test-00000-of-00001.parquet"
    write_parquet(file, [{key: row[key] for key in row if key != column} for row in rows()])
    with pytest.raises(DataInvalid, match=f"{file}: there is no column '{column}', only (qry|tgt)_"):
        image_set("CIRR", v1(), eval_mirror)


@pytest.mark.parametrize("path", ["/etc/hostname", "../../CIRR/a.jpg"])
def test_an_image_outside_the_folder_of_images_is_refused(eval_mirror: Path, path: str) -> None:
    file = eval_mirror / "TIGER-Lab/MMEB-eval/CIRR/test-00000-of-00001.parquet"
    write_parquet(file, [rows()[0], rows()[1] | {"tgt_img_path": [IMAGES[1], path]}])
    with pytest.raises(DataInvalid, match=f"{file}: row 1: CIRR: unsafe path: {path}$"):
        image_set("CIRR", v1(), eval_mirror)


def test_lists_of_any_width_are_read(eval_mirror: Path) -> None:
    file = eval_mirror / "TIGER-Lab/MMEB-eval/CIRR/test-00000-of-00001.parquet"
    wide = pa.large_list(pa.large_string())
    text = pa.dictionary(pa.int32(), pa.string())
    columns = {"qry_text": text, "qry_img_path": text, "tgt_text": wide, "tgt_img_path": wide}
    write_parquet(file, rows(), pa.schema(columns))
    assert image_set("CIRR", v1(), eval_mirror).files == [file]
    (eval_mirror / "TIGER-Lab/MMEB-eval/eval_images" / IMAGES[2]).unlink()
    with pytest.raises(DataInvalid, match=f"{file}: row 0: CIRR: 1 of 3 images are missing"):
        image_set("CIRR", v1(), eval_mirror)


def test_candidates_without_images_may_be_one_empty_text(eval_mirror: Path) -> None:
    file = eval_mirror / "TIGER-Lab/MMEB-eval/CIRR/test-00000-of-00001.parquet"
    write_parquet(file, [row | {"tgt_img_path": ""} for row in rows()])
    (eval_mirror / "TIGER-Lab/MMEB-eval/eval_images" / IMAGES[2]).unlink()
    assert image_set("CIRR", v1(), eval_mirror).files == [file]


@pytest.mark.parametrize("path", IMAGES)
def test_a_deleted_image_is_named(eval_mirror: Path, path: str) -> None:
    (eval_mirror / "TIGER-Lab/MMEB-eval/eval_images" / path).unlink()
    with pytest.raises(DataInvalid, match=f"CIRR: 1 of 3 images are missing in .*eval_images: {path}$"):
        image_set("CIRR", v1(), eval_mirror)


def test_of_many_deleted_images_some_are_named(eval_mirror: Path) -> None:
    many = [f"CIRR/{number}.jpg" for number in range(9)]
    write_parquet(
        eval_mirror / "TIGER-Lab/MMEB-eval/CIRR/test-00000-of-00001.parquet",
        [row | {"tgt_img_path": many, "tgt_text": [""] * 9} for row in rows()],
    )
    with pytest.raises(
        DataInvalid, match=r"9 of 10 images are missing in .*: CIRR/0.jpg, CIRR/1.jpg, CIRR/2.jpg, \.\.\."
    ):
        image_set("CIRR", v1(), eval_mirror)


def test_a_deleted_table_is_named_with_what_to_download(eval_mirror: Path) -> None:
    (eval_mirror / "TIGER-Lab/MMEB-eval/CIRR/test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataInvalid, match="CIRR: the table 'CIRR' of TIGER-Lab/MMEB-eval is not in") as raised:
        image_set("CIRR", v1(), eval_mirror)
    assert f"--local-dir {eval_mirror / 'TIGER-Lab/MMEB-eval'}" in raised.value.remedy


def test_deleted_images_are_named_with_what_to_download(tmp_path: Path) -> None:
    write_parquet(tmp_path / "MMEB-eval/CIRR/test-00000-of-00001.parquet", rows())
    with pytest.raises(DataInvalid, match=f"CIRR: 3 of 3 images are missing in {tmp_path}: CIRR/a.jpg, ") as raised:
        image_set("CIRR", v1(), tmp_path)
    assert "hf download TIGER-Lab/MMEB-V2" in raised.value.remedy


def test_a_parquet_file_that_is_cut_short_is_named(eval_mirror: Path) -> None:
    cut_short(eval_mirror / "TIGER-Lab/MMEB-eval/CIRR/test-00000-of-00001.parquet")
    with pytest.raises(
        DataInvalid, match=r"CIRR/test-00000-of-00001.parquet cannot be read, it is broken or cut short"
    ):
        image_set("CIRR", v1(), eval_mirror)


def test_another_number_of_rows_than_published_is_an_error(eval_mirror: Path) -> None:
    with pytest.raises(DataInvalid, match="CIRR: queries: 2 in the mirror, 1000 were published"):
        image_set("CIRR", v1(queries=1000), eval_mirror)


@pytest.mark.parametrize("layout", IMAGE_LAYOUTS)
def test_one_layout_is_not_read_as_the_other(tmp_path: Path, layout: str) -> None:
    wanted, other = (v1(), {"qry_inst": "Find it"}) if layout == "mmeb-eval" else (v2(), {})
    file = write_parquet(tmp_path / "CIRR/test-00000-of-00001.parquet", rows(**other))
    with pytest.raises(DataInvalid, match=f"{file}: is not in the layout {layout}"):
        image_set("CIRR", wanted, tmp_path)


def test_a_task_without_source_is_used_wrongly(eval_mirror: Path) -> None:
    with pytest.raises(UsageError, match="CIRR: its task names no source"):
        image_set("CIRR", v1(source=None), eval_mirror)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """MMEB-eval and MMEB-V2 as downloaded, their archives packed."""
    mirror = tmp_path / "mirror"
    write_parquet(mirror / "MMEB-eval/CIRR/test-00000-of-00001.parquet", rows())
    instruct = rows(qry_inst="Find it", tgt_inst="Represent it")
    write_parquet(mirror / "MMEB_Test_Instruct/CIRR/test-00000-of-00001.parquet", instruct)
    (mirror / "MMEB-V2/image-tasks").mkdir(parents=True)
    write_images(tmp_path / "MMEB")
    with tarfile.open(mirror / "MMEB-V2/image-tasks/mmeb_v1.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "MMEB", "MMEB")
    with zipfile.ZipFile(mirror / "MMEB-eval/images.zip", "w") as zipped:
        for path in IMAGES:
            zipped.write(tmp_path / "MMEB" / path, path)
    return mirror


def test_packed_images_are_unpacked_once(packed: Path) -> None:
    assert image_set("CIRR", v1(), packed).images == packed / "MMEB-eval/eval_images"
    (packed / "MMEB-eval/images.zip").unlink()
    assert image_set("CIRR", v1(), packed).images == packed / "MMEB-eval/eval_images"
    assert not (packed / "MMEB-V2/image-tasks/MMEB").exists(), "nothing is unpacked that is not needed"


@pytest.mark.parametrize(("task", "archive"), [(v1(), "MMEB-eval/images.zip"), (v2(), "mmeb_v1.tar.gz")])
def test_an_archive_that_is_cut_short_is_named_and_leaves_nothing(packed: Path, task: Task, archive: str) -> None:
    if task.layout == "mmeb-instruct":
        (packed / "MMEB-eval/images.zip").unlink()
    for file in (packed / "MMEB-V2/image-tasks/mmeb_v1.tar.gz", packed / "MMEB-eval/images.zip"):
        if file.exists():
            cut_short(file)
    before = contents(packed)
    with pytest.raises(DataInvalid, match=f"{archive} .* is broken or incomplete"):
        image_set("CIRR", task, packed)
    assert contents(packed) == before

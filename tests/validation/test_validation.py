"""A clean data set passes with every expectation evaluated; each planted defect is found by name and severity."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.corpus.manifest import EvaluationTask, Manifest, Tasks
from components.corpus.rows import EVAL_SCHEMA, TRAIN_SCHEMA
from components.errors import DataInvalid, EmbedlineError, UsageError
from components.validation import Finding, Result, run
from components.validation.config import Validation
from components.validation.expectations import judge, suites

ROWS = 40
IMAGES = 4 * ROWS
EXPECTATIONS = 20
LIMITS = Validation(
    min_train_rows=ROWS, min_eval_sets=1, min_image_side=16, max_image_side=256, max_aspect=4.0, max_text_length=100,
    max_duplicate_fraction=0.02, max_class_fraction=0.9,
)  # fmt: skip
Rows = list[dict[str, Any]]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class DataSet:
    """A small sound data set on disk, in which a test changes rows and images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in range(IMAGES):
            self.put_image(number, image(number))
        train = [pair(f"name {row}", row) for row in range(ROWS)]
        self.rows: dict[str, Rows] = {
            "train/Names": train,
            "dev/Names": [query(f"name {row}", row) for row in range(ROWS, 2 * ROWS)],
            "eval/Names": [query(f"name {row}", row) for row in range(2 * ROWS, 3 * ROWS)],
        }
        self.counts: dict[str, int] = {}
        self.other_columns: set[str] = set()

    def put_image(self, number: int, content: bytes) -> None:
        path = self.folder / "images" / file_name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def write(self) -> Path:
        tasks: dict[str, dict[str, Any]] = {"train": {}, "dev": {}, "eval": {}, "multilingual": {}}
        for name, rows in self.rows.items():
            split, task = name.split("/")
            schema = TRAIN_SCHEMA if split == "train" else EVAL_SCHEMA
            present = pa.schema([column for column in schema if column.name in rows[0]])
            table = pa.Table.from_pylist(rows, None if name in self.other_columns else present)
            (self.folder / split).mkdir(exist_ok=True)
            pq.write_table(table, self.folder / f"{name}.parquet")
            count = self.counts.get(name, len(rows))
            tasks[split][task] = (
                count
                if split == "train"
                else EvaluationTask(rows=count, candidates=ROWS, meta_task="retrieval", distribution="OOD")
            )
        Manifest(
            name="names", source="table", licence=["CC0"], inputs={}, corpus={}, seed=0, tasks=Tasks(**tasks),
            images=IMAGES, quarantined=0, digest="0" * 64,
        ).write(self.folder)  # fmt: skip
        return self.folder


def file_name(number: int) -> str:
    return f"{number:03}.png"


def image(number: int, size: tuple[int, int] = (24, 24), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def pair(text: str, number: int) -> dict[str, Any]:
    return {
        "qry_inst": "Find:", "qry": text, "qry_image_path": "", "pos_inst": "", "pos_text": "",
        "pos_image_path": file_name(number), "neg_text": "", "neg_image_path": "",
    }  # fmt: skip


def query(text: str, number: int) -> dict[str, Any]:
    first = number - number % ROWS
    return {
        "qry_inst": "Find:", "qry_text": text, "qry_img_path": "", "tgt_inst": "", "tgt_text": [""] * ROWS,
        "tgt_img_path": [file_name(first + candidate) for candidate in range(ROWS)], "label": [number % ROWS],
    }  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return DataSet(tmp_path / "data")


def validate(data: DataSet, limits: Validation = LIMITS) -> Result:
    root = data.folder.parent
    return run(limits, data.write(), root / "artifacts/validation", root / ".embedline/validation")


def findings(data: DataSet) -> list[Finding]:
    """Returns the failed findings, whether or not one of them stopped the stage."""
    root = data.folder.parent
    try:
        validate(data)
    except DataInvalid:
        assert not (root / "artifacts/validation").exists()
        assert not list(root.glob(".embedline/.*"))
        report = json.loads((root / ".embedline/validation/result.json").read_text())
    else:
        report = json.loads((root / "artifacts/validation/result.json").read_text())
    assert len(report["findings"]) == EXPECTATIONS
    return [Finding(**finding) for finding in report["findings"] if not finding["passed"]]


def failed(data: DataSet) -> dict[str, str]:
    return {finding.name: finding.severity for finding in findings(data)}


def test_a_clean_data_set_passes_every_expectation(data: DataSet) -> None:
    result = validate(data)
    assert (result.evaluated, result.failed) == (EXPECTATIONS, [])
    assert result.metrics["rows_train"] == result.metrics["rows_eval"] == ROWS
    assert result.metrics["images"] == 3 * ROWS
    assert result.metrics["rows_leaked"] == 0


def test_evaluation_rows_that_were_trained_on_end_the_round_before_anything_is_scored(data: DataSet) -> None:
    leak_from_training(data)
    with pytest.raises(DataInvalid, match=r"no leakage"):
        validate(data)


def test_two_validations_of_the_same_data_write_the_same_bytes(data: DataSet) -> None:
    contents = []
    for _ in range(2):
        validate(data)
        contents.append([path.read_bytes() for path in sorted(data.folder.parent.glob("artifacts/validation/*"))])
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2


def leak_from_training(data: DataSet) -> None:
    data.rows["eval/Names"][3]["qry_text"] = "name  5 "
    data.put_image(2 * ROWS + 3, image(5))


def leak_from_dev(data: DataSet) -> None:
    data.rows["eval/Names"][3] = data.rows["dev/Names"][7]


def leak_into_a_language(data: DataSet) -> None:
    data.rows["multilingual/en"] = [*data.rows["eval/Names"][:-1], query("name 5", 5)]


def leak_from_dev_into_a_language(data: DataSet) -> None:
    data.rows["multilingual/en"] = [*data.rows["eval/Names"][:-1], data.rows["dev/Names"][7]]


def leak_from_training_prompts(data: DataSet) -> None:
    for row in data.rows["train/Names"]:
        row["qry"] = f"<|image_1|>\nFind: {row['qry']}\n"
        del row["qry_inst"], row["pos_inst"]
    data.rows["eval/Names"][3] = query("name 5", 5)


def duplicate_rows(data: DataSet) -> None:
    data.rows["train/Names"][1] = data.rows["train/Names"][0]


def duplicate_queries(data: DataSet) -> None:
    data.rows["eval/Names"][1] = data.rows["eval/Names"][0]


def break_image(data: DataSet) -> None:
    data.put_image(0, image(0)[:-40])


def break_jpeg(data: DataSet) -> None:
    data.put_image(0, image(0, (128, 128), "JPEG")[:-2000])


def remove_a_negative(data: DataSet) -> None:
    data.rows["train/Names"][0] |= {"neg_text": "['','']", "neg_image_path": f"['{file_name(1)}', 'absent.png']"}


def remove_image(data: DataSet) -> None:
    (data.folder / "images" / file_name(2 * ROWS)).unlink()


def leave_the_folder(data: DataSet) -> None:
    data.rows["train/Names"][0]["pos_image_path"] = "../../secret.png"


def shrink_image(data: DataSet) -> None:
    data.put_image(1, image(1, (15, 15)))


def enlarge_image(data: DataSet) -> None:
    data.put_image(1, image(1, (257, 100)))


def stretch_image(data: DataSet) -> None:
    data.put_image(1, image(1, (100, 20)))


def rename_column(data: DataSet) -> None:
    for row in data.rows["train/Names"]:
        row["query"] = row.pop("qry")
    data.other_columns = {"train/Names"}
    data.rows["train/More"] = [pair(f"more {row}", row) for row in range(ROWS)]


def retype_column(data: DataSet) -> None:
    for row in data.rows["eval/Names"]:
        row["label"] = "0"
    data.other_columns = {"eval/Names"}
    data.rows["eval/More"] = [query(f"more {row}", row) for row in range(3 * ROWS, 4 * ROWS)]


def copy_a_distractor(data: DataSet) -> None:
    row = data.rows["eval/Names"][0]
    row["tgt_img_path"][8] = row["tgt_img_path"][9]


def copy_the_truth(data: DataSet) -> None:
    for position in range(2):
        data.put_image(2 * ROWS + position, image(2 * ROWS))


def label_past_the_end(data: DataSet) -> None:
    data.rows["eval/Names"][0]["label"] = [ROWS]


def label_nothing(data: DataSet) -> None:
    data.rows["dev/Names"][0]["label"] = []


def cut_candidates(data: DataSet) -> None:
    data.rows["eval/Names"][4]["tgt_text"].pop()


def empty_training(data: DataSet) -> None:
    del data.rows["train/Names"]


def no_evaluation(data: DataSet) -> None:
    del data.rows["eval/Names"]


def lose_rows(data: DataSet) -> None:
    data.counts["eval/Names"] = ROWS + 1


def empty_a_query(data: DataSet) -> None:
    data.rows["dev/Names"][0]["qry_text"] = ""


def empty_a_candidate(data: DataSet) -> None:
    data.rows["dev/Names"][0]["tgt_img_path"][3] = ""


def empty_a_positive(data: DataSet) -> None:
    data.rows["train/Names"][0]["pos_image_path"] = ""


def null_text(data: DataSet) -> None:
    data.rows["train/Names"][0]["neg_text"] = None


def null_candidate(data: DataSet) -> None:
    data.rows["eval/Names"][0]["tgt_text"][2] = None


def lengthen_text(data: DataSet) -> None:
    data.rows["train/Names"][0]["qry"] = "long " * 21


def garble_text(data: DataSet) -> None:
    data.rows["train/Names"][0]["qry"] = "\ufffd\x81" * 20


def unbalance_classes(data: DataSet) -> None:
    for row in data.rows["train/Names"][1:]:
        row["pos_image_path"] = file_name(0)


DEFECTS: list[tuple[Callable[[DataSet], None], dict[str, str]]] = [
    (leak_from_training, {"no leakage": "critical"}),
    (leak_from_dev, {"no leakage": "critical"}),
    (leak_into_a_language, {"no leakage": "critical"}),
    (leak_from_dev_into_a_language, {"no leakage": "critical"}),
    (leak_from_training_prompts, {"no leakage": "critical"}),
    (duplicate_rows, {"few duplicates": "critical"}),
    (duplicate_queries, {"few duplicates": "critical"}),
    (break_image, {"images readable": "critical"}),
    (break_jpeg, {"images readable": "critical"}),
    (remove_a_negative, {"images readable": "critical"}),
    (remove_image, {"images readable": "critical"}),
    (leave_the_folder, {"images readable": "critical"}),
    (shrink_image, {"images not too small": "critical"}),
    (enlarge_image, {"images not too large": "critical"}),
    (stretch_image, {"image aspect": "warning"}),
    (rename_column, {"schema": "critical"}),
    (retype_column, {"schema": "critical"}),
    (copy_a_distractor, {"candidates are distinct": "warning"}),
    (copy_the_truth, {"candidates are distinct": "warning", "truth is unambiguous": "critical"}),
    (label_past_the_end, {"labels within range": "critical"}),
    (label_nothing, {"labels within range": "critical"}),
    (cut_candidates, {"candidate columns agree": "critical"}),
    (empty_training, {"enough training rows": "critical"}),
    (no_evaluation, {"enough evaluation sets": "critical"}),
    (lose_rows, {"counts": "critical"}),
    (empty_a_query, {"no empty sides": "critical"}),
    (empty_a_candidate, {"no empty sides": "critical"}),
    (empty_a_positive, {"no empty sides": "critical"}),
    (null_text, {"no nulls": "critical"}),
    (null_candidate, {"no nulls": "critical"}),
    (lengthen_text, {"text length": "warning"}),
    (garble_text, {"language mix": "warning"}),
    (unbalance_classes, {"class balance": "warning"}),
]


@pytest.mark.parametrize(("plant", "expected"), DEFECTS, ids=[plant.__name__ for plant, _ in DEFECTS])
def test_a_planted_defect_is_found_by_name(
    data: DataSet, plant: Callable[[DataSet], None], expected: dict[str, str]
) -> None:
    plant(data)
    assert failed(data) == expected


def test_every_expectation_has_a_defect_that_it_finds() -> None:
    built = [expectation.meta["name"] for suite in suites(LIMITS).values() for expectation in suite if expectation.meta]
    assert len(built) == EXPECTATIONS
    assert set(built) - {name for _, expected in DEFECTS for name in expected} == {"no empty task"}


def test_a_task_without_rows_is_found(data: DataSet) -> None:
    data.write()
    pq.write_table(pq.read_table(data.folder / "eval/Names.parquet").slice(0, 0), data.folder / "eval/None.parquet")
    with pytest.raises(DataInvalid, match="no empty task"):
        run(LIMITS, data.folder, data.folder.parent / "output", data.folder.parent / "failed")


def test_trained_images_may_be_candidates_and_queries(data: DataSet) -> None:
    for row in data.rows["eval/Names"]:
        row["tgt_img_path"][-1] = file_name(3)
        row["label"] = [0]
    data.rows["eval/Same image"] = [query(f"another word {row}", row) for row in range(ROWS)]
    assert "no leakage" not in failed(data)


def test_the_languages_may_ask_what_the_evaluation_asks(data: DataSet) -> None:
    data.rows["multilingual/en"] = list(data.rows["eval/Names"])
    assert failed(data) == {}


def test_a_language_that_the_manifest_does_not_count_is_found(data: DataSet) -> None:
    data.write()
    (data.folder / "multilingual").mkdir()
    shutil.copy(data.folder / "eval/Names.parquet", data.folder / "multilingual/de.parquet")
    with pytest.raises(DataInvalid, match=r"counts.*multilingual, task de"):
        run(LIMITS, data.folder, data.folder.parent / "output", data.folder.parent / "failed")


def test_several_relevant_candidates_may_be_copies_of_each_other(data: DataSet) -> None:
    copy_the_truth(data)
    for row in data.rows["eval/Names"]:
        row["label"] = [0, 1] if row["label"][0] < 2 else row["label"]
    data.rows["eval/Names"].pop(1)
    assert failed(data) == {"candidates are distinct": "warning"}


def test_rows_without_labels_have_their_truth_first(data: DataSet) -> None:
    for row in data.rows["eval/Names"]:
        row["tgt_img_path"].insert(0, row["tgt_img_path"].pop(row.pop("label")[0]))
    assert failed(data) == {}


def test_the_message_names_the_task_and_the_report_the_row(data: DataSet) -> None:
    leak_from_training(data)
    with pytest.raises(DataInvalid, match=r"no leakage.*eval, task Names") as caught:
        validate(data)
    assert caught.value.exit_code == 4
    report = json.loads((data.folder.parent / ".embedline/validation/result.json").read_text())
    [task] = [task for task in report["tasks"] if (task["split"], task["task"]) == ("eval", "Names")]
    assert task["rows_at_fault"] == {"leaked": [3]}
    assert ".embedline/validation" in caught.value.remedy


def test_corrected_data_pass_and_leave_no_old_complaint(data: DataSet) -> None:
    root = data.folder.parent
    rows = data.rows["eval/Names"][1]
    duplicate_queries(data)
    with pytest.raises(DataInvalid):
        validate(data)
    data.rows["eval/Names"][1] = rows
    assert validate(data).failed == []
    assert not (root / ".embedline/validation").exists()
    assert sorted(path.name for path in (root / "artifacts").iterdir()) == ["validation"]


def test_a_report_that_cannot_be_written_leaves_nothing(data: DataSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    data.write()
    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(OSError, match="No space left"):
        run(LIMITS, data.folder, data.folder.parent / "output", data.folder.parent / "failed")
    assert not (data.folder.parent / "output").exists()


def test_scripts_are_distinguished(data: DataSet) -> None:
    data.rows["train/Names"][0]["qry"] = "кот 猫 قطة"
    validate(data)
    report = json.loads((data.folder.parent / "artifacts/validation/result.json").read_text())
    scripts = next(task["scripts"] for task in report["tasks"] if task["split"] == "train")
    assert scripts.keys() == {"Latin", "Cyrillic", "Cjk", "Arabic"}
    assert sum(scripts.values()) == pytest.approx(1, abs=1e-5)


def test_data_without_a_manifest_are_refused(data: DataSet) -> None:
    data.write()
    (data.folder / "manifest.json").unlink()
    with pytest.raises(UsageError, match="manifest"):
        run(LIMITS, data.folder, data.folder.parent / "output", data.folder.parent / "failed")


def test_a_suite_that_evaluates_nothing_is_refused(data: DataSet) -> None:
    import pandas as pd

    frame = pd.DataFrame({"training_rows": [1]})
    with pytest.raises(EmbedlineError, match="0 of 0"):
        judge({"dataset": frame}, {"dataset": []})
    with pytest.raises(EmbedlineError, match="no suite"):
        judge({}, {})
    with pytest.raises(EmbedlineError, match="could not be evaluated"):
        judge({"dataset": frame}, {"dataset": suites(LIMITS)["dataset"]})


@pytest.fixture
def page(data: DataSet) -> Path:
    data.rows["train/Names"][0]["qry"] = "<script src=//evil>" + "long " * 30
    stretch_image(data)
    validate(data)
    return data.folder.parent / "artifacts/validation/index.html"


def test_the_page_names_no_address(page: Path) -> None:
    assert not re.findall(r"(?i)https?:|src=|url\(|@import|<script|href=\"(?!data:,)", page.read_text())


def requested(page: Path, profile: Path) -> set[str]:
    """Returns the addresses that a browser asks for when it opens the page, without those of its own updates."""
    log = profile.with_suffix(".json")
    shown = subprocess.run(
        [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--dump-dom",
         f"--log-net-log={log}", f"--user-data-dir={profile}", page.as_uri()],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "</html>" in shown.stdout
    urls = set(re.findall(r'"url":"(https?:[^"]+)"', log.read_text(errors="replace")))
    return {url for url in urls if not re.match(r"https?://[^/]+\.(google(apis)?|gvt1)\.com/", url)}


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_opens_without_a_request(page: Path, tmp_path: Path) -> None:
    control = tmp_path / "control.html"
    control.write_text(
        page.read_text().replace("</head>", '<link rel="stylesheet" href="https://style.invalid/"></head>')
    )
    assert requested(control, tmp_path / "control") == {"https://style.invalid/"}
    assert requested(page, tmp_path / "profile") == set()

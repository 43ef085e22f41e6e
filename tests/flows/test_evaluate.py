"""`embedline evaluate` and `embedline compare` as a user calls them, on a small data set and vectors of files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.backends.precomputed import write_precomputed
from components.config import PARAMETERS
from components.corpus import EVAL_SCHEMA, Item
from components.corpus.layout import write_rows
from components.evaluation import read_suite
from tests.evaluation.conftest import HashEmbedder, row, write_data

REPOSITORY = Path(__file__).parents[2]
WORDS = [f"word {number}" for number in range(40)]


def vectors_of(items: tuple[Item, ...], sense: float) -> np.ndarray:
    """Random vectors, but a query `like X` is near the candidate `X`, the nearer the more `sense`."""
    random = HashEmbedder().encode(items)
    known = {item.text: random[place] for place, item in enumerate(items)}
    for place, item in enumerate(items):
        if item.text and item.text.startswith("like "):
            random[place] += sense * known[item.text.removeprefix("like ")]
    return random


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two sets, and the vectors of a good and of a poor model for it."""
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copy(REPOSITORY / PARAMETERS, workspace)
    sets = {
        name: [row(f"like {word}", WORDS, [place]) for place, word in enumerate(WORDS)] for name in ("Names", "Others")
    }
    suite = read_suite(write_data(workspace / "data", sets, {"Others": ("vqa", "OOD")}))
    for name, sense in (("good", 2.0), ("poor", 0.2)):
        write_precomputed(workspace / name, suite.items, vectors_of(suite.items, sense), suite.root)
    return workspace


def embedline(workspace: Path, *arguments: str) -> tuple[int, Any]:
    """Returns the exit code and what was said to a machine."""
    command = [sys.executable, "-m", "flows.command_line", *arguments, "--json"]
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=120)
    return done.returncode, json.loads(done.stdout)


def test_a_model_is_scored_shown_and_compared(workspace: Path) -> None:
    scores = {}
    for name in ("good", "poor"):
        code, scores[name] = embedline(workspace, "evaluate", f"vectors:{name}", "--vlm2vec", f"{name}.json")
        assert code == 0 and scores[name]["missing"] == []
        assert json.loads((workspace / f"{name}.json").read_text())["metrics"]["image"].keys() == {"Names", "Others"}
        page = (workspace / scores[name]["scores"]).with_suffix(".html").read_text(encoding="utf-8")
        assert "<svg" in page and ("Worst queries" in page) == (name == "poor")
    assert scores["good"]["overall"] > 0.9 > 0.3 > scores["poor"]["overall"]
    files = [scores[name]["scores"] for name in ("good", "poor")]
    code, compared = embedline(workspace, "compare", *files)
    assert code == 0 and compared["overall"]["verdict"] == "better" and compared["overall"]["lower"] > 0.5
    code, same = embedline(workspace, "compare", files[0], files[0])
    assert code == 0 and same["overall"]["verdict"] == "no difference shown"


def test_a_sibling_gives_its_own_numbers(workspace: Path) -> None:
    code, found = embedline(workspace, "evaluate", "vectors:good", "--suite", "geometry")
    assert code == 0 and found["alignment, all"] < 1


def test_rows_that_lead_out_of_the_data_end_in_a_message_that_names_set_and_row(
    workspace: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    rows = [row(f"like {word}", WORDS, [place]) for place, word in enumerate(WORDS)]
    rows[9]["qry_img_path"] = str(REPOSITORY / "LICENSE")
    write_rows(copy / "data/eval/Names.parquet", EVAL_SCHEMA, rows)
    code, said = embedline(copy, "evaluate", "vectors:good")
    assert code == 4 and "Names.parquet: row 9: unsafe path: /" in said["error"] and said["error"].startswith("Names: ")


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (["evaluate", "vectors:good", "--suite", "mmeb-v3"], 2, "mmeb-v3: there is no such suite"),
        (["evaluate", "vectors:good", "--suite", "mmeb-v1"], 2, "mmeb-v1 needs its files"),
        (["evaluate", "vectors:nothing"], 2, "nothing"),
        (["evaluate", "data"], 2, "no model directory"),
        (["evaluate", "triton://127.0.0.1:1/embedder/1"], 1, "no Triton answers at 127.0.0.1:1"),
        (["evaluate", "triton://"], 2, "is no address"),
        (["compare", "champion", "challenger"], 2, "champion: no score file"),
        (["evaluate", "vectors:good", "--suite", "sts:nothing.csv"], 2, "nothing.csv"),
    ],
)
def test_wrong_use_ends_in_a_message_and_its_exit_code(
    workspace: Path, arguments: list[str], code: int, problem: str
) -> None:
    found, said = embedline(workspace, *arguments)
    assert found == code and problem in said["error"]

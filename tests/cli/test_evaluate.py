"""`embedline evaluate` and `embedline compare` as a user calls them, on a small data set and vectors of files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.backends.precomputed import write_precomputed
from components.config import PARAMETERS
from components.corpus import EVAL_SCHEMA, Item
from components.corpus.layout import write_rows
from components.errors import UsageError
from components.evaluation import probes, read_suite
from components.evaluation.any_model import Evaluated, Questions, evaluate_elsewhere, evaluate_model, read_scores
from components.evaluation.config import Evaluation
from serving.client import open_model
from tests.cli.conftest import Called
from tests.evaluation.conftest import CONFIG, HashEmbedder, row, write_data

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
Ask = Callable[..., tuple[int, Any]]
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
    """Returns the exit code of a process of its own, and what it said to a machine."""
    command = [sys.executable, "-m", "cli.main", *arguments, "--json"]
    done = subprocess.run(command, cwd=workspace, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def ask(call: Callable[..., Called]) -> Ask:
    """Returns the exit code and what was said to a machine, in this process, which need not start anew."""

    def asked(folder: Path, *arguments: str) -> tuple[int, Any]:
        code, said, _ = call(folder, *arguments, "--json")
        return code, json.loads(said)

    return asked


def test_a_model_is_scored_shown_and_compared(workspace: Path, ask: Ask) -> None:
    scores = {}
    for name in ("good", "poor"):
        code, scores[name] = embedline(workspace, "evaluate", f"vectors:{name}", "--vlm2vec", f"{name}.json")
        assert code == 0 and scores[name]["missing"] == []
        assert json.loads((workspace / f"{name}.json").read_text())["metrics"]["image"].keys() == {"Names", "Others"}
        page = (workspace / scores[name]["scores"]).with_suffix(".html").read_text(encoding="utf-8")
        assert "<svg" in page and ("Worst queries" in page) == (name == "poor")
    assert scores["good"]["overall"] > 0.9 > 0.3 > scores["poor"]["overall"]
    files = [scores[name]["scores"] for name in ("good", "poor")]
    code, compared = ask(workspace, "compare", *files)
    assert code == 0 and compared["overall"]["verdict"] == "better" and compared["overall"]["lower"] > 0.5
    code, same = ask(workspace, "compare", files[0], files[0])
    assert code == 0 and same["overall"]["verdict"] == "no difference shown" and same["note"] is None
    content = json.loads((workspace / files[1]).read_text())
    (workspace / "asked otherwise.json").write_text(json.dumps(content | {"prompts": "of another family"}))
    code, compared = ask(workspace, "compare", files[0], "asked otherwise.json")
    assert code == 0 and "prompts differ" in compared["note"]
    content["tasks"]["Names"]["values"][0] = 7.0
    (workspace / "broken.json").write_text(json.dumps(content))
    code, said = ask(workspace, "compare", files[0], "broken.json")
    assert code == 2 and "broken.json" in said["error"] and "tasks.Names.values.0" in said["error"]


def test_a_probe_gives_its_own_numbers(workspace: Path, ask: Ask) -> None:
    code, found = ask(workspace, "evaluate", "vectors:good", "--suite", "geometry")
    assert code == 0 and found["alignment, all"] < 1


def test_rows_that_lead_out_of_the_data_end_in_a_message_that_names_set_and_row(
    workspace: Path, tmp_path: Path, ask: Ask
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(workspace, copy)
    rows = [row(f"like {word}", WORDS, [place]) for place, word in enumerate(WORDS)]
    rows[9]["qry_img_path"] = str(REPOSITORY / "LICENSE")
    write_rows(copy / "data/eval/Names.parquet", EVAL_SCHEMA, rows)
    code, said = ask(copy, "evaluate", "vectors:good")
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
        (["evaluate", "vectors:good", "--vlm2vec", "params.yaml/x.json"], 2, "params.yaml/x.json cannot be written"),
        (["evaluate", "vectors:good", "--task", "nope"], 2, "small has no set nope"),
        (["evaluate", "vectors:good", "--backbone", "nope"], 2, "nope: the prompts of this backbone are not known"),
    ],
)
def test_wrong_use_ends_in_a_message_and_its_exit_code(
    workspace: Path, ask: Ask, arguments: list[str], code: int, problem: str
) -> None:
    found, said = ask(workspace, *arguments)
    assert found == code and problem in said["error"]


@pytest.fixture
def inside(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workspace)
    return workspace


AS_IT_IS = """
def build(base, images):
    return base

def measure(suite, scores, sides):
    return {"sets": len(sides)}
"""


def evaluated(model: str, suite: str = "data", config: Evaluation = CONFIG, **questions: Any) -> Evaluated:
    return evaluate_model(model, Questions(suite, **questions), config, open_model, lambda _: None)


def test_evaluations_of_other_models_or_other_sets_do_not_overwrite_each_other(inside: Path) -> None:
    for name, model in (("a", "good"), ("b", "poor")):
        shutil.copytree(inside / model, inside / name / "model", dirs_exist_ok=True)
    found = [
        evaluated("vectors:a/model"), evaluated("vectors:b/model"), evaluated("vectors:a/model", tasks=["Names"]),
        evaluated("vectors:a/model", tasks=["Others"]),
    ]  # fmt: skip
    assert len({each.file for each in found}) == len({each.page for each in found}) == 4
    assert all(each.file.name.startswith("model-") and each.page.is_file() for each in found)
    assert [read_scores(str(each.file)) for each in found] == [each.scores for each in found]
    assert evaluated("vectors:a/model").file == found[0].file, "the same inputs overwrite themselves"
    assert evaluated("vectors:a/model", tasks=["Names", "Names"]).file == found[2].file


def test_a_part_of_the_sets_is_scored_and_the_others_are_named(inside: Path) -> None:
    whole, part = evaluated("vectors:good"), evaluated("vectors:good", tasks=["Names"])
    assert part.scores.tasks == {"Names": whole.scores.tasks["Names"]} and part.scores.missing == ["Others"]
    assert "overall" in whole.scores.aggregates and "overall" not in part.scores.aggregates
    name, *others = sorted(evaluated("vectors:good", "geometry").scores.tasks)
    part = evaluated("vectors:good", "geometry", tasks=[name])
    assert list(part.scores.tasks) == [name] and part.scores.missing == others
    assert bool(part.measured) == (not others), "a probe's numbers are over all its sets"
    with pytest.raises(UsageError, match="has no set nope") as caught:
        evaluated("vectors:good", "geometry", tasks=["nope"])
    assert name in caught.value.remedy


def test_shorter_vectors_score_as_a_model_that_has_no_more_numbers(inside: Path) -> None:
    suite = read_suite(inside / "data")
    short = vectors_of(suite.items, 2.0)[:, :5]
    write_precomputed(inside / "short", suite.items, short / np.linalg.norm(short, axis=1, keepdims=True), suite.root)
    whole, cut, alone = (
        evaluated("vectors:good"), evaluated("vectors:good", dimension=5), evaluated("vectors:short")
    )  # fmt: skip
    assert cut.scores.tasks == alone.scores.tasks != whole.scores.tasks
    assert cut.scores.model.dimension == 5 and cut.file != whole.file
    for size in (0, 10_000):
        with pytest.raises(UsageError, match=f"--dimension {size}: the model's vectors have"):
            evaluated("vectors:good", dimension=size)


def test_a_probe_in_a_new_file_is_a_suite(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (inside / "probes").mkdir()
    (inside / "probes" / "as_it_is.py").write_text(AS_IT_IS)
    with pytest.raises(UsageError, match="as-it-is: there is no such suite"):
        evaluated("vectors:good", "as-it-is")
    monkeypatch.setattr(probes, "__path__", [*probes.__path__, str(inside / "probes")])
    assert evaluated("vectors:good", "as-it-is").measured == {"sets": 2}


def test_json_has_the_score_of_every_set(workspace: Path, ask: Ask) -> None:
    code, said = ask(workspace, "evaluate", "vectors:good", "--task", "Names")
    assert code == 0 and said["tasks"].keys() == {"Names"} and said["tasks"]["Names"] > 0.9
    assert said["missing"] == ["Others"] and "overall" not in said


@pytest.mark.parametrize("suite", ["data", "geometry", "sts:pairs.csv", "mteb:Task"])
def test_what_a_suite_does_not_take_is_refused(inside: Path, suite: str) -> None:
    def evaluate(**options: Any) -> None:
        evaluate_one = evaluate_elsewhere if ":" in suite else evaluate_model
        evaluate_one("vectors:good", Questions(suite, **options), CONFIG, open_model, lambda _: None)

    with pytest.raises(UsageError, match=f"{suite} takes no --backbone") as caught:
        evaluate(backbone="qwen2_vl")
    assert "mmeb-v1, mmeb-v2" in caught.value.remedy
    with pytest.raises(UsageError, match="nope: the prompts of this backbone are not known"):
        evaluate(backbone="nope")
    with pytest.raises(UsageError, match=f"{suite} takes no --mirror"):
        evaluate(mirror=Path("mirror"))
    if ":" in suite:
        for option in ({"tasks": ["Names"]}, {"dimension": 5}):
            with pytest.raises(UsageError, match="is scored as a whole"):
                evaluate(**option)


def test_a_folder_that_cannot_be_written_is_said_to_be(inside: Path) -> None:
    shutil.rmtree(inside / ".embedline", ignore_errors=True)
    (inside / ".embedline").write_text("in the way")
    try:
        with pytest.raises(UsageError, match=r"good-\w+\.json cannot be written"):
            evaluated("vectors:good")
    finally:
        (inside / ".embedline").unlink()

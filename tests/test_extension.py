"""One idea is one file: a source, a loss, two towers, a variant and a probe, each put into a copy of the tree, work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

from components import config as configuration
from components.errors import UsageError
from components.evaluation.probes import probe
from components.files import file_sha256

ROOT = Path(__file__).parents[1]
EXTENSIONS = Path(__file__).with_name("extensions")
NEW = sorted(path.relative_to(EXTENSIONS).as_posix() for path in EXTENSIONS.rglob("*.py"))
SECTIONS: dict[str, Any] = {
    "corpus": {"source": "patches", "name": "patches", "images": 60, "dev_fraction": 0.1, "eval_fraction": 0.3},
    "teacher": {
        "backbone": {
            "kind": "towers",
            "text": {"kind": "letters", "width": 8},
            "image": {"kind": "colours", "image_size": 16, "width": 12},
            "dimension": 16,
            "max_tokens": 16,
            "instruction_weight": 0.2,
        },
        "phases": [{"losses": [{"name": "squared", "margin": 0.5}]}],
        "schedule": {
            "steps": 4,
            "batch_size": 8,
            "sub_batches": 1,
            "task_weights": {},
            "augmentation": 0.0,
            "no_flip_tasks": [],
            "learning_rate": 0.01,
            "weight_decay": 0.0,
            "warmup_fraction": 0.0,
            "precision": "float32",
            "checkpoint_every": 4,
            "log_every": 1,
            "seed": 0,
        },
    },
    "export": {
        "opset": 20,
        "variants": [{"name": "labelled", "parity_cosine": 0.999, "label": "a label of its own"}],
        "parity_items": 4,
    },
}
LINE = """
import json
from pathlib import Path

from components import config as configuration
from components.corpus import ingest
from components.evaluation.any_model import Questions, evaluate_model
from components.export.export import export
from components.stages.inputs import needed
from components.training.train import TrainingPaths, train_model
from components.workspace import CHECKPOINTS, DATA, NEGATIVES, ONNX, STUDENT
from serving.client import open_model

config = configuration.read(Path(configuration.PARAMETERS))
reported = {"schema": configuration.schema(), "needed": needed("teacher", config), "losses": []}
tasks = ingest(config.corpus, DATA).tasks
reported["rows"] = sum(tasks.train.values())
paths = TrainingPaths(DATA, NEGATIVES, STUDENT, CHECKPOINTS)
train_model(config.teacher, paths, lambda _, metrics: reported["losses"].append(metrics))
reported["parity"] = {name: found.minimum for name, found in export(config.export, STUDENT, DATA, ONNX).items()}
questions = Questions("plain-mean", None, (), None)
reported["probe"] = evaluate_model(str(ONNX / "labelled"), questions, config.evaluation, open_model, print).measured
Path("reported.json").write_text(json.dumps(reported, default=float))
"""


@pytest.fixture
def content() -> dict[str, Any]:
    """A params.yaml that names each of the new files."""
    shipped: dict[str, Any] = yaml.safe_load((ROOT / configuration.PARAMETERS).read_text(encoding="utf-8"))
    return shipped | SECTIONS | {"serving": shipped["serving"] | {"variant": "labelled"}}


def digests(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): file_sha256(path) for path in root.rglob("*.py")}


@pytest.mark.slow
def test_each_new_file_works_where_it_is_named_and_no_other_is_touched(
    source_copy: Path, content: dict[str, Any]
) -> None:
    before = digests(source_copy / "components")
    shutil.copytree(EXTENSIONS, source_copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (source_copy / configuration.PARAMETERS).write_text(yaml.safe_dump(content), encoding="utf-8")
    places = os.pathsep.join((str(source_copy), str(ROOT)))  # the copy's components, the checkout's other packages
    environment = os.environ | {"PYTHONPATH": places}
    done = subprocess.run(
        [sys.executable, "-c", LINE], cwd=source_copy, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    after = digests(source_copy / "components")
    assert sorted(f"components/{name}" for name in after.keys() - before.keys()) == NEW and len(NEW) == 6
    assert {name: digest for name, digest in after.items() if name in before} == before

    reported = json.loads((source_copy / "reported.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, reported["schema"])
    assert reported["rows"] > 40, "the source"
    assert len([metrics["loss/squared"] for metrics in reported["losses"]]) == 4, "the loss"
    assert {name for name in NEW if "/towers/" in name or "/losses/" in name} <= set(reported["needed"])
    student = json.loads((source_copy / "artifacts" / "student" / "config.json").read_text(encoding="utf-8"))
    assert student["text_config"]["model_type"] == "extension_letters", "the text tower"
    assert student["vision_config"]["model_type"] == "extension_colours", "the image tower"
    label = source_copy / "artifacts" / "onnx" / "labelled" / "label.txt"
    assert label.read_text(encoding="utf-8") == "a label of its own", "the variant"
    assert reported["parity"]["labelled"] > 0.999
    assert reported["probe"]["sets"] >= 1 and 0 <= reported["probe"]["mean"] <= 1, "the probe"


def test_without_their_files_the_names_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        configuration.parse(content)
    for name in ("patches", "letters", "colours", "squared", "labelled"):
        assert repr(name) in refused.value.problem
    with pytest.raises(ValueError, match="should be one of"):
        probe("plain-mean")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, configuration.schema())

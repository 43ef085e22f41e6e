"""A whole student: distilled, exported, packaged, and answered by the bundle as by the model that was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from components import config as configuration
from components.backends.directory import open_directory
from components.backends.tiny import write_tiny
from components.embedder import Embedder, OnnxEmbedder
from components.errors import UsageError
from components.export import package
from components.export.bundle import VERSION
from components.export.config import Export
from components.export.export import export
from components.export.sample import of_each_modality, training_items
from components.export.student import require_exportable
from components.training import TrainingPaths, embed_with_teacher, mine_negatives, train_model
from components.training.config import Negatives, Recipe
from components.training.config import TeacherEmbeddings as Settings
from flows import retrain

from .conftest import FP32, SERVING

ROOT = Path(__file__).parents[2]
LOSSES = [
    {"name": "vectors"},
    {"name": "translation"},
    {"name": "structure"},
    {"name": "relative"},
    {"name": "similarities", "student_temperature": 0.1, "teacher_temperature": 0.1},
    {"name": "contrastive", "temperature": 0.1},
]
SCHEDULE = {
    "steps": 3,
    "batch_size": 8,
    "sub_batches": 1,
    "task_weights": {},
    "augmentation": 0.0,
    "no_flip_tasks": [],
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "warmup_fraction": 0.0,
    "precision": "float32",
    "checkpoint_every": 100,
    "log_every": 1,
    "seed": 0,
}


def recipe(model: str) -> Recipe:
    backbone = {"kind": "whole", "model": model}
    content = {"backbone": backbone, "phases": [{"losses": LOSSES}], "schedule": SCHEDULE}
    return Recipe.model_validate({**content, "matryoshka_dimensions": [32, 8]})


def opened(directory: Path) -> Embedder:
    embedder = open_directory(str(directory), 8)
    assert isinstance(embedder, Embedder)
    return embedder


@pytest.mark.slow
def test_a_whole_student_is_distilled_exported_and_packaged(student: Path, data: Path, tmp_path: Path) -> None:
    teacher = student
    nothing = Negatives(model=None, reranker=None, per_query=2, depth=5, margin=1.0, other_modalities=True)
    mine_negatives(nothing, data, tmp_path / "negatives")
    settings = Settings(others=[], views=0, augmentation=0.0, no_flip_tasks=[], seed=0)
    embed_with_teacher(settings, teacher, data, tmp_path / "embeddings")
    reported: list[Mapping[str, float]] = []
    trained = tmp_path / "student"
    paths = TrainingPaths(
        data, tmp_path / "negatives", trained, tmp_path / "checkpoints", teacher, tmp_path / "embeddings"
    )
    train_model(recipe("random:clip"), paths, lambda _, metrics: reported.append(metrics))
    assert {f"loss/{loss['name']}" for loss in LOSSES} <= reported[0].keys()

    only = Export(opset=20, variants=[FP32], parity_items=12)
    report = export(only, trained, data, tmp_path / "onnx")
    assert report["fp32"].minimum > 0.99999
    serving = SERVING.model_copy(update={"variant": "fp32"})
    bundle = package(serving, tmp_path / "onnx", data, tmp_path / "bundle", "# A model card")
    served, items = OnnxEmbedder(tmp_path / "bundle" / VERSION), of_each_modality(training_items(data), 20)
    assert bundle.dimension == served.dimension == 32
    assert served.runtime.description.matryoshka_dimensions == (32, 8), "the served model may be asked for these"
    np.testing.assert_allclose(served.encode(items), opened(trained).encode(items), atol=1e-5)

    write_tiny("clip", tmp_path / "untrained", SCHEDULE["seed"])
    (tmp_path / "untrained" / "modules.json").write_bytes((trained / "modules.json").read_bytes())
    for name in ("sentence_bert_config.json", "config_sentence_transformers.json"):
        (tmp_path / "untrained" / name).write_bytes((trained / name).read_bytes())
    untrained = opened(tmp_path / "untrained").encode(items)
    assert np.abs(served.encode(items) - untrained).max() > 1e-3, "it is the trained weights that are served"


def config(**distillation: Any) -> configuration.Config:
    content = yaml.safe_load((ROOT / configuration.PARAMETERS).read_text(encoding="utf-8"))
    content["distillation"] = distillation
    return configuration.parse(content)


@pytest.mark.parametrize("model", ["random:clip", "random:siglip", "random:siglip2", "random:vision_text"])
def test_a_whole_student_that_can_be_exported_is_accepted(model: str, tmp_path: Path) -> None:
    retrain.require_exportable_student(config(**recipe(model).model_dump()))
    write_tiny(model.removeprefix("random:"), tmp_path / "bare")
    require_exportable(str(tmp_path / "bare"))


def test_one_that_cannot_be_exported_is_refused_before_it_is_trained(text_model: Path) -> None:
    with pytest.raises(UsageError, match=r"distillation.backbone: random:idefics3 cannot be exported; the classes are"):
        retrain.require_exportable_student(config(**recipe("random:idefics3").model_dump()))
    with pytest.raises(UsageError, match="cannot be exported"):
        require_exportable(str(text_model))


def test_a_whole_student_learns_from_images_as_they_are() -> None:
    content = yaml.safe_load((ROOT / configuration.PARAMETERS).read_text(encoding="utf-8"))
    content["distillation"] = recipe("random:clip").model_dump()
    content["teacher_embeddings"]["views"] = 2
    with pytest.raises(UsageError, match=r"teacher_embeddings.views: a whole student sees images as they are"):
        configuration.parse(content)

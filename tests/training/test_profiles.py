from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from components.backends.directory import open_directory
from components.backends.whole_model import load_whole
from components.config import Config, parse
from components.corpus import Item
from components.embedder import Embedder, TorchEmbedder
from components.profiles import overlay, profile_names, read_profile
from components.training.config import Recipe, Towers
from components.training.encoder import Encoder, TowersEncoder
from components.training.examples import Examples
from components.training.model_encoder import ModelEncoder
from components.training.recipe import TrainingData, train_by
from components.training.teacher_embeddings import read_teacher_embeddings, write_teacher_embeddings

from .conftest import ROOT, MakeRecipe, student_of, untrained, weights

NAMES = profile_names(ROOT / "profiles")
SMALL = {"steps": 4, "batch_size": 8, "sub_batches": 2, "checkpoint_every": 4, "log_every": 1, "precision": "float32"}


@pytest.fixture
def make_config(text_model: Path) -> Any:
    """Makes the configuration of a profile with tiny towers and few steps; which losses, phases and rates it has,
    which parts are frozen, adapted or averaged stays as it is."""

    def make(name: str) -> Config:
        base = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        content = overlay(base, read_profile(name, ROOT / "profiles").changes)
        image = {"kind": "residual", "image_size": 16, "widths": [8, 16], "depths": [1, 1]}
        texts = {
            "teacher": {"kind": "pretrained", "model": str(text_model)},
            "distillation": {"kind": "word_vectors", "tokenizer": str(text_model), "width": 12},
        }
        for section, text in texts.items():
            small = {"schedule": SMALL}
            if content[section]["backbone"]["kind"] == "towers":
                small["backbone"] = {"text": text, "image": image, "dimension": 24}
            if content[section].get("early_stopping"):
                small["early_stopping"] = {"every": 1}
            content[section] = overlay(content[section], small)
            content[section]["schedule"]["task_weights"] = {}
        content["distillation"]["matryoshka_dimensions"] = [24, 12]
        return parse(content)

    return make


def encoder_of(recipe: Recipe, examples: Examples) -> Encoder:
    backbone = recipe.backbone
    if isinstance(backbone, Towers):
        return TowersEncoder(untrained(recipe), examples)
    return ModelEncoder(load_whole(backbone.model, backbone.pooling, 0), examples, "float32")


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_trains(
    name: str, make_config: Any, make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    """The model changes, is written, and opens as a user would open it."""
    config: Config = make_config(name)
    changed = "teacher" if "teacher" in read_profile(name, ROOT / "profiles").changes else "distillation"
    recipe: Recipe = getattr(config, changed)
    reported: list[Mapping[str, float]] = []
    if changed == "teacher":
        data, encoder = TrainingData(examples), encoder_of(recipe, examples)
    else:
        teacher = untrained(make_teaching())
        write_teacher_embeddings([TorchEmbedder(teacher)], examples, config.teacher_embeddings, tmp_path / "embeddings")
        teachers = read_teacher_embeddings(tmp_path / "embeddings", examples)
        data = TrainingData(examples, teachers=teachers)
        encoder = TowersEncoder(student_of(teacher, recipe, tmp_path), examples, teachers.changes)
    before = weights(encoder.module)

    def score(embedder: Embedder) -> float:
        return float(embedder.dimension > 0)

    train_by(recipe, encoder, data, tmp_path / "work", lambda _, metrics: reported.append(metrics), score)
    named = {f"loss/{term.name}" for phase in recipe.phases for term in phase.losses}
    assert named <= {name for metrics in reported for name in metrics}
    assert np.isfinite([metrics["loss"] for metrics in reported if "loss" in metrics]).all()
    assert any("dev_score" in metrics for metrics in reported) == (recipe.early_stopping is not None)
    after = weights(encoder.module)
    assert before.keys() == after.keys(), "adapters are merged"
    assert any(not torch.equal(before[name], after[name]) for name in before)
    encoder.save(tmp_path / "model")
    opened = open_directory(str(tmp_path / "model"), 4)
    assert isinstance(opened, Embedder)
    item = [Item(text=examples.texts[0], instruction=examples.texts[10])]
    np.testing.assert_allclose(opened.encode(item), encoder.embedder().encode(item), atol=1e-5)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from components import config as configuration
from components.embedder import TorchEmbedder
from components.embedder.dual_encoder import DualEncoder
from components.progress import Progress
from components.training.config import Recipe, Schedule, Towers
from components.training.encoder import TowersEncoder
from components.training.examples import INSTRUCTION, NONE, TEXT, Examples
from components.training.recipe import Scorer, TrainingData, train_by
from components.training.student_init import init_student
from components.training.towers import build_towers

ROOT = Path(__file__).parents[2]
MakeSchedule = Callable[..., Schedule]
MakeRecipe = Callable[..., Recipe]
Fit = Callable[..., DualEncoder]
State = dict[str, Tensor]
TEACHING = {
    "lr_multipliers": {"text_model": 0.0, "text_projection": 0.05},
    "losses": [{"name": "contrastive", "temperature": 0.1}],
}
LEARNING = {
    "losses": [
        {"name": "vectors", "weight": 6.0},
        {"name": "similarities", "student_temperature": 0.1, "teacher_temperature": 0.1},
        {"name": "contrastive", "weight": 0.5, "temperature": 0.1},
    ]
}


@pytest.fixture
def make_schedule() -> MakeSchedule:
    """Makes the schedule of a short training."""

    def make(**changes: Any) -> Schedule:
        fields: dict[str, Any] = {
            "steps": 6,
            "batch_size": 8,
            "sub_batches": 2,
            "task_weights": {},
            "augmentation": 0.5,
            "no_flip_tasks": [],
            "learning_rate": 0.01,
            "weight_decay": 0.05,
            "warmup_fraction": 0.2,
            "precision": "float32",
            "checkpoint_every": 2,
            "log_every": 1,
            "seed": 3,
        }
        return Schedule.model_validate(fields | changes)

    return make


@pytest.fixture
def make_teaching(make_schedule: MakeSchedule, text_model: Path) -> MakeRecipe:
    """Makes the recipe of a teacher of two tiny towers; each change goes to the section that has such a key."""

    def make(**changes: Any) -> Recipe:
        backbone = {
            "kind": "towers",
            "text": {"kind": "pretrained", "model": str(text_model)},
            "image": {"kind": "residual", "image_size": 16, "widths": [8, 16], "depths": [1, 1]},
            "dimension": 24,
            "max_tokens": 16,
            "instruction_weight": 0.2,
        }
        of_schedule, of_backbone = (
            {name: value for name, value in changes.items() if name in section.model_fields}
            for section in (Schedule, Towers)
        )
        others = {name: value for name, value in changes.items() if name not in of_schedule | of_backbone}
        schedule = make_schedule(**of_schedule).model_dump()
        return Recipe.model_validate(
            {"backbone": backbone | of_backbone, "phases": [TEACHING], "schedule": schedule} | others
        )

    return make


@pytest.fixture
def make_learning(make_teaching: MakeRecipe, text_model: Path) -> MakeRecipe:
    """Makes the recipe of a student of word vectors and a tiny image tower."""

    def make(**changes: Any) -> Recipe:
        text = {"kind": "word_vectors", "tokenizer": str(text_model), "width": 12}
        return make_teaching(**{"text": text, "phases": [LEARNING], "matryoshka_dimensions": [24, 12]} | changes)

    return make


@pytest.fixture(scope="session")
def params() -> configuration.Config:
    """The configuration that this repository ships."""
    return configuration.read(ROOT / configuration.PARAMETERS)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Ten images with a name each, in tasks of every shape: text to image, image to text, both to text or image."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    images = [folder / f"{number}.png" for number in range(10)]
    for file in images:
        Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(file)
    texts = [f"{colour} {thing}" for colour in ("red", "blue") for thing in ("cat", "dog", "face", "tree", "one")]
    texts += ["find the face", "left of the cat"]
    numbers = np.arange(10, dtype=np.int32)

    def parts(text: Any = NONE, image: Any = NONE, instruction: int = NONE) -> np.ndarray:
        return np.stack(np.broadcast_arrays(text, image, np.full(10, instruction, np.int32)), 1).astype(np.int32)

    queries = {
        "Name": parts(text=numbers),
        "Shown": parts(image=numbers, instruction=10),
        "LeftOf": parts(text=np.int32(11), image=numbers, instruction=10),
    }
    positives = {"Name": parts(image=numbers), "Shown": parts(text=numbers), "LeftOf": parts(image=(numbers + 1) % 10)}
    assert queries["Shown"][0, INSTRUCTION] == 10 and queries["LeftOf"][0, TEXT] == 11
    return Examples(texts, images, queries, positives)


def of_tasks(examples: Examples, *tasks: str) -> Examples:
    """Returns the examples of these tasks alone."""
    queries, positives = ({task: side[task] for task in tasks} for side in (examples.queries, examples.positives))
    return replace(examples, queries=queries, positives=positives)


def ignored(step: int, metrics: Mapping[str, float]) -> None: ...


def fit(
    recipe: Recipe,
    data: TrainingData | Examples,
    workspace: Path,
    report: Progress = ignored,
    scorer: Scorer | None = None,
    module: DualEncoder | None = None,
) -> DualEncoder:
    """Returns new towers, or `module`, trained by the recipe."""
    known = TrainingData(data) if isinstance(data, Examples) else data
    encoder = TowersEncoder(
        module or untrained(recipe), known.examples, known.teachers.changes if known.teachers else None
    )
    train_by(recipe, encoder, known, workspace, report, scorer)
    return encoder.module


def untrained(recipe: Recipe) -> DualEncoder:
    assert isinstance(recipe.backbone, Towers)
    return build_towers(recipe.backbone, recipe.matryoshka_dimensions, recipe.schedule.seed)


def student_of(teacher: DualEncoder, recipe: Recipe, folder: Path) -> DualEncoder:
    """Returns a student with what it takes over from its teacher."""
    student = untrained(recipe)
    assert isinstance(recipe.backbone, Towers)
    init_student(student, recipe.backbone, TorchEmbedder(teacher), folder)
    return student


def weights(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def stop_at(stop: int, metric: str = "loss") -> Progress:
    """Returns the report of a training that is interrupted where it tells a metric of a step, before it is saved."""

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if step == stop and metric in metrics:
            raise KeyboardInterrupt

    return report

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components import config as configuration
from components.config import Distillation, Schedule, Teacher
from components.training.examples import INSTRUCTION, NONE, TEXT, Examples

ROOT = Path(__file__).parents[2]
Report = Callable[[int, Mapping[str, float]], None]
MakeSchedule = Callable[..., Schedule]
MakeTeacher = Callable[..., Teacher]
MakeDistillation = Callable[..., Distillation]
TOWER = {"image_size": 16, "widths": [8, 16], "depths": [1, 1]}


@pytest.fixture
def make_schedule() -> MakeSchedule:
    """Makes the schedule of a short training."""

    def make(**changes: Any) -> Schedule:
        fields: dict[str, Any] = {
            "steps": 6,
            "batch_size": 8,
            "sub_batches": 2,
            "task_weights": {"LeftOf": 2},
            "augmentation": 0.5,
            "unmirrored_tasks": ["LeftOf"],
            "learning_rate": 0.01,
            "weight_decay": 0.05,
            "warmup_share": 0.2,
            "temperature": 0.1,
            "precision": "float32",
            "checkpoint_every": 2,
            "log_every": 1,
            "seed": 3,
        }
        return Schedule(**(fields | changes))

    return make


@pytest.fixture
def make_teacher(make_schedule: MakeSchedule, text_model: Path) -> MakeTeacher:
    """Makes the teacher section of two tiny towers; changes go to the schedule."""

    def make(**changes: Any) -> Teacher:
        return Teacher.model_validate(
            {
                "text_model": str(text_model),
                "max_tokens": 16,
                "instruction_weight": 0.2,
                "dimension": 24,
                "image_tower": TOWER,
                "schedule": make_schedule(**changes).model_dump(),
            }
        )

    return make


@pytest.fixture
def make_distillation(make_schedule: MakeSchedule) -> MakeDistillation:
    def make(**changes: Any) -> Distillation:
        return Distillation.model_validate(
            {
                "text_dimension": 12,
                "image_tower": TOWER,
                "schedule": make_schedule(**changes).model_dump(),
                "matryoshka_dimensions": [24, 12],
                "vector_weight": 1.0,
                "similarity_weight": 1.0,
                "label_weight": 0.5,
                "similarity_temperature": 0.1,
            }
        )

    return make


@pytest.fixture(scope="session")
def params() -> configuration.Config:
    """The configuration that this repository ships."""
    return configuration.read(ROOT / configuration.PARAMETERS)


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Ten pictures with a name each, in tasks of every shape: text to image, image to text, both to text or image."""
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


@pytest.fixture
def stop_at() -> Callable[[int], Report]:
    """Makes the report of a training that is interrupted at a step, before it can save that step."""

    def make(stop: int) -> Report:
        def report(step: int, metrics: Mapping[str, float]) -> None:
            if step == stop:
                raise KeyboardInterrupt

        return report

    return make


@pytest.fixture
def ignore(stop_at: Callable[[int], Report]) -> Report:
    return stop_at(-1)

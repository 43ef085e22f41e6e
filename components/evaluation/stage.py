"""The stage `evaluate`: scores the trained models and every exported variant as it is shipped."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open

from components.artifact import whole
from components.backends.directory import open_directory
from components.embedder import fingerprint
from components.errors import EmbedlineError
from components.evaluation.report import Model, Scores, evaluate
from components.evaluation.sets import read_suite
from components.evaluation.vectors import Done

if TYPE_CHECKING:
    from components.config import Config

TRAINED, STUDENT = ("teacher", "student"), "student"
Report = Callable[[str, int, int], None]
"""Is told the model at work, how many items have their vector, and how many there are."""


def run(
    config: Config, data: Path, models: Mapping[str, Path], output: Path, cache: Path, report: Report
) -> dict[str, Scores]:
    """Scores each model directory under its name and writes `output/NAME.json`; returns the scores by name.

    `teacher` and `student` are computed by torch, every other directory is an export of the student, computed by ONNX
    Runtime. `output` appears when all are scored. Raises as `evaluate` does.
    """
    scores = {}
    suite = read_suite(data)
    with whole(output) as partial:
        for name, directory in models.items():
            embedder = open_directory(str(directory), config.evaluation.batch_size, remember_images=True)
            weights = directory if name in TRAINED else models[STUDENT]
            model = Model(name, fingerprint(directory), embedder.dimension, parameters(weights))
            told = functools.partial(_tell, report, name)
            scores[name] = evaluate(embedder, model, suite, config.evaluation, cache, told)
            scores[name].write(partial / f"{name}.json")
    return scores


def parameters(directory: Path) -> int:
    """Returns how many numbers the weights of a model directory hold. Raises `EmbedlineError` if it has none."""
    count = 0
    for file in directory.rglob("*.safetensors"):
        with safe_open(file, "numpy") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    if not count:
        raise EmbedlineError(f"{directory}: holds no weights (*.safetensors)", "Train it again with `dvc repro`.")
    return count


def _tell(report: Report, name: str, done: Done) -> None:
    report(name, done.all_items, done.of_all)

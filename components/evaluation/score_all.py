"""Scores several models on a data set: the trained ones, and every exported variant as it is shipped."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import safe_open

from components.backends.directory import unopened_directory
from components.embedder import fingerprint
from components.errors import EmbedlineError
from components.evaluation.config import Evaluation
from components.evaluation.report import BATCHES_PER_CHUNK, score
from components.evaluation.sets import read_suite
from components.evaluation.vectors import Done, cached_vectors, dimension
from components.files import atomic_directory
from components.scores import Model, Scores

TRAINED, STUDENT = ("teacher", "student"), "student"
Report = Callable[[str, int, int], None]
"""Takes the model at work, how many items have their vector, and how many there are."""


def score_all(
    settings: Evaluation, data: Path, models: Mapping[str, Path], output: Path, cache: Path, report: Report
) -> tuple[dict[str, Scores], dict[str, float]]:
    """Scores each model directory under its name and writes `output/NAME.json`; returns the scores by name, and how
    many items a second each model encoded.

    `teacher` and `student` are computed by torch, every other directory is an export of the student, computed by ONNX
    Runtime. `output` appears when all are scored. Raises as `evaluate` does.
    """
    scores, speeds = {}, {}
    suite = read_suite(data, cache=cache)
    with atomic_directory(output) as partial:
        for name, directory in models.items():
            embedder = unopened_directory(str(directory), settings.batch_size, remember_images=True)
            identity = fingerprint(directory)
            progress = functools.partial(_pass_on, report, name)
            chunk = settings.batch_size * BATCHES_PER_CHUNK
            sides, speeds[name] = cached_vectors(embedder, name, identity, suite, chunk, cache, progress)
            weights = directory if name in TRAINED else models[STUDENT]
            model = Model(name, identity, dimension(sides), parameters(weights))
            scores[name] = score(model, suite, sides)
            scores[name].write(partial / f"{name}.json")
    return scores, speeds


def parameters(directory: Path) -> int:
    """Returns how many numbers the weights of a model directory hold. Raises `EmbedlineError` if it has none."""
    count = 0
    for file in directory.rglob("*.safetensors"):
        with safe_open(file, "numpy") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    if not count:
        raise EmbedlineError(f"{directory}: holds no weights (*.safetensors)", "Train it again with `dvc repro`.")
    return count


def _pass_on(report: Report, name: str, done: Done) -> None:
    report(name, done.all_items, done.of_all)

"""The stages by name: the only list of them in code. `dvc.yaml` says what each depends on and makes.

A stage adds one entry here, one in `dvc.yaml`, and nothing else: the flow runs whatever is listed, in this order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import config as configuration
from components.config import Config, Recipe
from components.errors import Refused, UsedWrongly

if TYPE_CHECKING:
    from components.evaluation import DevScorer
    from components.registry.tracking import Run

DATA = Path("data")
CHECKPOINTS = Path("checkpoints")
ARTIFACTS = Path("artifacts")
VALIDATION, NEGATIVES, TEACHER, EMBEDDINGS, STUDENT, ONNX, SCORES, BUNDLE = (
    ARTIFACTS / name
    for name in ("validation", "negatives", "teacher", "teacher_embeddings", "student", "onnx", "scores", "bundle")
)
VECTORS = CHECKPOINTS / "vectors"
METRICS = ARTIFACTS / "metrics.json"


@dataclass(frozen=True)
class Stage:
    """What runs, in the folder of the workspace, and the sections of `params.yaml` that it reads."""

    run: Callable[[Config, Run], None]
    sections: tuple[str, ...]


def run_stage(name: str) -> None:
    """Runs one stage in the present folder and logs it to MLflow. Raises `UsedWrongly` if there is no such stage."""
    from components.lineage import data_hash
    from components.registry.tracking import log_stage

    if name not in STAGES:
        raise UsedWrongly(f"{name}: no such stage", f"The stages are: {', '.join(STAGES)}.")
    config = configuration.read(Path(configuration.PARAMETERS))
    stage = STAGES[name]
    with log_stage(name) as run:
        run.log_parameters({section: getattr(config, section).model_dump() for section in stage.sections})
        run.log_dataset(data_hash(Path()), name)
        stage.run(config, run)


def _validate(config: Config, run: Run) -> None:
    from components.validation import run as validate

    run.log_metrics(validate(config.validation, DATA, VALIDATION).metrics)


def _negatives(config: Config, run: Run) -> None:
    from components.training import mine_negatives

    mine_negatives(config.negatives, DATA, NEGATIVES)


def _teacher(config: Config, run: Run) -> None:
    from components.training import Places, train_model

    places = Places(DATA, NEGATIVES, TEACHER, CHECKPOINTS)
    train_model(config.teacher, places, _progress(run, config.teacher), _dev_scorer(config))


def _embed_teacher(config: Config, run: Run) -> None:
    from components.training import embed_with_teacher

    embed_with_teacher(config.teacher_embeddings, TEACHER, DATA, EMBEDDINGS)


def _distill(config: Config, run: Run) -> None:
    from components.training import Places, train_model

    places = Places(DATA, NEGATIVES, STUDENT, CHECKPOINTS, TEACHER, EMBEDDINGS)
    train_model(config.distillation, places, _progress(run, config.distillation), _dev_scorer(config))


def _dev_scorer(config: Config) -> DevScorer:
    from components.evaluation import DevScorer

    return DevScorer(config.evaluation, DATA)


def _export(config: Config, run: Run) -> None:
    from components.export import stage

    for variant, numbers in stage.run(config.export, STUDENT, DATA, ONNX).items():
        run.log_metrics({f"parity/{variant}/{name}": value for name, value in numbers.items()})


def _evaluate(config: Config, run: Run) -> None:
    from components.evaluation import run as score

    models = {"teacher": TEACHER, "student": STUDENT, "onnx-fp32": ONNX / "fp32", "onnx-int8": ONNX / "int8"}
    scores, speeds = score(
        config, DATA, models, SCORES, VECTORS, lambda name, done, total: _tell(f"{name}: {done} of {total}")
    )
    run.log_metrics({f"items_per_second/{name}": speed for name, speed in speeds.items()})
    summary = {name: dict(score.aggregates) for name, score in scores.items()}
    for name, aggregates in summary.items():
        run.log_metrics({f"mmeb/{name}/{aggregate}": value for aggregate, value in aggregates.items()})
        run.log_metrics({f"hit@1/{name}/{task}": value.score for task, value in scores[name].tasks.items()})
    _write_metrics(summary)


def _package(config: Config, run: Run) -> None:
    from components.corpus import Manifest
    from components.embedder import fingerprint
    from components.export import package
    from components.lineage import git_state
    from components.registry import model_card

    shipped = f"onnx-{config.serving.variant}"
    scores = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(SCORES.glob("*.json"))}
    if scores[shipped]["model"]["fingerprint"] != fingerprint(ONNX / config.serving.variant):
        raise Refused(f"{SCORES} holds the scores of another {shipped}", "Score it again: embedline stage evaluate")
    manifest = Manifest.read(DATA)
    facts = {"git commit": git_state(Path()).commit or "none", "data set": manifest.digest}
    card = model_card("embedline-embedder", config.serving.variant, scores, manifest, config.model_dump(), facts)
    package(config.serving, ONNX, DATA, BUNDLE, card)
    run.log_file(BUNDLE / "model_card.md")


def _progress(run: Run, recipe: Recipe) -> Callable[[int, Mapping[str, float]], None]:
    steps = recipe.schedule.steps

    def report(step: int, metrics: Mapping[str, float]) -> None:
        run.log_metrics(metrics, step)
        if "loss" in metrics:
            _tell(
                f"step {step} of {steps}: loss {metrics['loss']:.3f}, {metrics['pairs_per_second']:.0f} pairs/s, "
                f"{metrics['seconds_left']:.0f} s left"
            )
        else:
            _tell(f"step {step} of {steps}: dev score {metrics['dev_score']:.3f}")

    return report


def _tell(line: str) -> None:
    print(line, flush=True)


def _write_metrics(summary: Mapping[str, Any]) -> None:
    partial = METRICS.with_name(f".{METRICS.name}.partial")
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    partial.replace(METRICS)


STAGES = {
    "validate": Stage(_validate, ("validation",)),
    "negatives": Stage(_negatives, ("negatives",)),
    "teacher": Stage(_teacher, ("teacher",)),
    "embed_teacher": Stage(_embed_teacher, ("teacher_embeddings",)),
    "distill": Stage(_distill, ("distillation",)),
    "export": Stage(_export, ("export",)),
    "evaluate": Stage(_evaluate, ("evaluation",)),
    "package": Stage(_package, ("serving",)),
}

"""The stage `evaluate`: scores the trained models, and every exported variant as it is shipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.evaluation.stage import run as score
from components.progress import say
from components.workspace import DATA, METRICS, ONNX, SCORES, STUDENT, TEACHER, VECTORS

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = ("evaluation",)


def run(config: Config, run: Run) -> None:
    models = {"teacher": TEACHER, "student": STUDENT, "onnx-fp32": ONNX / "fp32", "onnx-int8": ONNX / "int8"}
    scores, speeds = score(
        config, DATA, models, SCORES, VECTORS, lambda name, done, total: say(f"{name}: {done} of {total}")
    )
    run.log_metrics({f"items_per_second/{name}": speed for name, speed in speeds.items()})
    summary = {name: dict(score.aggregates) for name, score in scores.items()}
    for name, aggregates in summary.items():
        run.log_metrics({f"mmeb/{name}/{aggregate}": value for aggregate, value in aggregates.items()})
        run.log_metrics({f"hit@1/{name}/{task}": value.score for task, value in scores[name].tasks.items()})
    _write_metrics(summary)


def _write_metrics(summary: Mapping[str, Any]) -> None:
    partial = METRICS.with_name(f".{METRICS.name}.partial")
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    partial.replace(METRICS)

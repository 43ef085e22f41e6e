"""The stage `evaluate`: scores the trained models, and every exported variant as it is shipped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from components.evaluation.score_all import score_all
from components.files import write_text
from components.progress import print_progress
from components.workspace import DATA, METRICS, ONNX, SCORES, STUDENT, TEACHER, VECTORS

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = ("evaluation", "export")


def run(config: Config, run: Run) -> None:
    there = [variant for variant in config.export.names if (ONNX / variant).is_dir()]  # not what this machine lacks
    exported = {f"onnx-{variant}": ONNX / variant for variant in there}
    models = {"teacher": TEACHER, "student": STUDENT, **exported}
    scores, speeds = score_all(
        config.evaluation,
        DATA,
        models,
        SCORES,
        VECTORS,
        lambda name, done, total: print_progress(f"{name}: {done} of {total}"),
    )
    run.log_metrics({f"items_per_second/{name}": speed for name, speed in speeds.items()})
    summary = {name: dict(score.aggregates) for name, score in scores.items()}
    for name, aggregates in summary.items():
        run.log_metrics({f"mmeb/{name}/{aggregate}": value for aggregate, value in aggregates.items()})
        run.log_metrics({f"hit@1/{name}/{task}": value.score for task, value in scores[name].tasks.items()})
    write_text(METRICS, json.dumps(summary, indent=2) + "\n")

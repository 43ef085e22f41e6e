"""VLM2Vec's report: scores in one file, `{"metadata": {...}, "metrics": {MODALITY: {SET: {METRIC: share}}}}`.

Source: VLM2Vec, `experiments/report_score_v2.py` (main).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.files import write_text
from components.scores import Scores

MODALITIES = ("image", "video", "visdoc")


def write_report(scores: Scores, path: Path) -> None:
    """Writes the scores as one report; its metadata also says which data, scorer and prompts they belong to.

    Raises `UsageError` where nothing can be written.
    """
    report = {"metadata": _metadata(scores), "metrics": _by_modality(scores)}
    write_text(path, json.dumps(report, allow_nan=False, indent=4) + "\n")


def _metadata(scores: Scores) -> dict[str, Any]:
    return {
        "model_name": scores.model.name,
        "model_size": scores.model.parameters and scores.model.parameters / 1e9,
        "embedding_dimension": scores.model.dimension,
        "data_source": "Self-Reported",
        "model_fingerprint": scores.model.fingerprint,
        "benchmark": scores.benchmark,
        "dataset_digest": scores.dataset_digest,
        "scorer": scores.scorer,
        "prompts": scores.prompts,
        "missing": scores.missing,
        "extra": scores.extra,
    }


def _by_modality(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    return {
        modality: {
            name: task.metrics | {"num_pred": task.queries, "num_data": task.queries}
            for name, task in scores.tasks.items()
            if task.modality == modality
        }
        for modality in MODALITIES
    }

"""Where things lie in a workspace, the folder that a round runs in."""

from __future__ import annotations

from pathlib import Path

STATE = Path(".embedline")
"""What belongs to this workspace alone: locks, logs, local databases. Neither git nor DVC sees it."""
TRAFFIC, FEEDBACK = STATE / "traffic", STATE / "feedback"
"""Recorded requests, and which hits their users took."""
DATA = Path("data")
LABELLED = Path("feedback")
"""Pairs that users have labelled, which `corpus.additions` reads."""
CHECKPOINTS = Path("checkpoints")
ARTIFACTS = Path("artifacts")
VALIDATION, NEGATIVES, TEACHER, EMBEDDINGS, STUDENT, ONNX, SCORES, BUNDLE, RUNS = (
    ARTIFACTS / name
    for name in (
        "validation", "negatives", "teacher", "teacher_embeddings", "student", "onnx", "scores", "bundle", "runs",
    )
)  # fmt: skip
METRICS = ARTIFACTS / "metrics.json"
VECTORS = CHECKPOINTS / "vectors"

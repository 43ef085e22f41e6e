"""The stage `package`: the bundle that a server needs, with its model card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.corpus.manifest import Manifest
from components.embedder import fingerprint
from components.errors import Refused
from components.export.bundle import package
from components.export.choice import CHOICE, markdown, report, served_variant
from components.registry.card import model_card
from components.scores import Scores
from components.workspace import BUNDLE, DATA, ONNX, SCORES

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = ("negatives", "teacher", "teacher_embeddings", "distillation", "export", "serving")
"""All that the card says of how the model was made, and how it is served."""


def run(config: Config, run: Run) -> None:
    variant = served_variant(config.serving, ONNX)
    shipped = f"onnx-{variant}"
    scores = {file.stem: Scores.read(file) for file in sorted(SCORES.glob("*.json"))}
    if shipped not in scores:
        remedy = "Choose another serving.variant, or export on a machine that computes it."
        raise Refused(f"{SCORES} holds no scores of {shipped}: it was not exported", remedy)
    if scores[shipped].model.fingerprint != fingerprint(ONNX / variant):
        raise Refused(f"{SCORES} holds the scores of another {shipped}", "Score it again: embedline stage evaluate")
    manifest = Manifest.read(DATA)
    parameters = {section: getattr(config, section).model_dump() for section in SECTIONS}
    facts = {"data set": manifest.digest}
    choice = markdown(report(ONNX)) if (ONNX / CHOICE).is_file() else ""
    card = model_card("embedline-embedder", variant, scores, manifest, parameters, facts, choice)
    package(config.serving, ONNX, DATA, BUNDLE, card)
    run.log_file(BUNDLE / "model_card.md")

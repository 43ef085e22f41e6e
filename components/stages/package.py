"""The stage `package`: the bundle that a server needs, with its model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from components.corpus.manifest import Manifest
from components.embedder import fingerprint
from components.errors import Refused
from components.export.bundle import CARD, CARD_PAGE, package
from components.export.choice import CHOICE, PARITY, markdown, report, served_variant
from components.export.licences import model_licence, together
from components.registry.card import Blessed, model_card
from components.scores import Scores
from components.workspace import BUNDLE, DATA, ONNX, SCORES

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = ("negatives", "teacher", "teacher_embeddings", "distillation", "export", "serving")
"""All that the card says of how the model was made, and how it is served."""


def run(config: Config, run: Run) -> None:
    variant = served_variant(config.serving, ONNX)
    shipped, path = f"onnx-{variant}", SCORES / f"onnx-{variant}.json"
    if not path.is_file():
        remedy = "Choose another serving.variant, or export on a machine that computes it."
        raise Refused(f"{SCORES} holds no scores of {shipped}: it was not exported", remedy)
    if Scores.read(path).model.fingerprint != fingerprint(ONNX / variant):
        raise Refused(f"{SCORES} holds the scores of another {shipped}", "Score it again: embedline stage evaluate")
    card = card_of(config, {"data set": Manifest.read(DATA).digest})
    package(config.serving, ONNX, DATA, BUNDLE, card, weights_licence(config))
    for name in (CARD, CARD_PAGE):
        run.log_file(BUNDLE / name)


def card_of(config: Config, facts: Mapping[str, Any], blessed: Blessed | None = None) -> str:
    """Returns the model card of what is in the workspace, in Markdown; `facts` are those of its lineage."""
    variant = served_variant(config.serving, ONNX)
    return model_card(
        "embedline-embedder",
        variant,
        {file.stem: Scores.read(file) for file in sorted(SCORES.glob("*.json"))},
        Manifest.read(DATA),
        {section: getattr(config, section).model_dump() for section in SECTIONS},
        facts,
        markdown(report(ONNX)) if (ONNX / CHOICE).is_file() else "",
        parity=json.loads((ONNX / PARITY).read_text(encoding="utf-8"))[variant],
        licence=weights_licence(config),
        base_models=sorted(filter(is_on_hub, set(starting_models(config)))),
        blessed=blessed,
    )


def weights_licence(config: Config) -> str:
    """Returns the SPDX expression of all models that the recipes start from."""
    return together(map(model_licence, starting_models(config)))


def starting_models(config: Config) -> list[str]:
    """Returns the models that the recipes start from, as they name them."""
    return [*config.teacher.starting_models, *config.distillation.starting_models]


def is_on_hub(model: str) -> bool:
    """Returns whether a name is one of the hub, not a directory."""
    return model.count("/") == 1 and not model.startswith(("/", "."))

"""Exports a model in every variant, each proved to answer as the model does."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components.backends.directory import open_directory
from components.embedder import Embedder, OnnxEmbedder
from components.errors import Refused, UsageError
from components.export.choice import PARITY
from components.export.config import VARIANTS, Export
from components.export.exporters import exporter_of
from components.export.parity import Parity, demand, parity
from components.export.rotation import write_rotated
from components.export.sample import of_each_modality, training_items
from components.export.tensorrt.export import export_tensorrt
from components.files import atomic_directory
from components.progress import print_progress
from components.sections import Section

GRAPHS, TENSORRT = ".graphs", "tensorrt"
BATCH_SIZE = 64


def export(config: Export, model: Path, data: Path, output: Path) -> dict[str, Parity]:
    """Writes `output/VARIANT` of each variant of a model directory, and `output/parity.json`, which it returns.

    A variant that this machine cannot compute is left out, with a line that says why. Where `config.tensorrt` asks for
    them, `output/tensorrt` holds the engines. Raises `UsageError` if no exporter reads the directory, if there are no
    data to compare on, or if no engine can be built here, and `Refused`, and writes nothing, if a variant or an engine
    answers otherwise than the model, or if all variants are left out.
    """
    exporter, items = exporter_of(model), training_items(data)
    if not items:
        raise UsageError(
            f"{data}: has no training items to compare an exported model on",
            "Build a data set with `embedline ingest`.",
        )
    sample = of_each_modality(items, config.parity_items)
    with atomic_directory(output) as partial, TemporaryDirectory() as folder:
        if config.rotation == "pca":
            write_rotated(model, items, rotated := Path(folder) / model.name)
            model = rotated
        reference = open_directory(str(model), BATCH_SIZE)
        assert isinstance(reference, Embedder), "exporters read models of one vector an item"
        exporter.export(model, partial / GRAPHS, config.opset)
        report: dict[str, Parity] = {}
        content: dict[str, Any] = {}
        for variant in config.variants:
            if reason := obstacle(variant):
                print_progress(f"{variant.name} is not exported: {reason}")
                continue
            VARIANTS.of(variant).write(variant, partial / GRAPHS, partial / variant.name, items)
            exported = OnnxEmbedder(partial / variant.name)
            report[variant.name] = parity(reference, exported, sample)
            demand(report[variant.name], variant.name, variant.parity_cosine)
            content[variant.name] = {**asdict(report[variant.name]), "provider": exported.provider}
        if not report:
            raise Refused(f"none of {', '.join(config.names)} can be computed here", "Name fp32 in export.variants.")
        if config.tensorrt is not None:
            export_tensorrt(partial / GRAPHS, partial / TENSORRT, config.tensorrt, items)
        shutil.rmtree(partial / GRAPHS)
        (partial / PARITY).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def require_former_export(output: Path) -> None:
    """Raises `UsageError` if there is something at `output` that an export would delete and has not written."""
    if output.exists() and not (output / PARITY).is_file():
        raise UsageError(f"{output}: is there, and holds no export", "Name a new folder, or one of an earlier export.")


def obstacle(variant: Section) -> str | None:
    """Returns why this machine cannot compute a variant, where its module says so."""
    module = VARIANTS.of(variant)
    reason: str | None = module.obstacle() if hasattr(module, "obstacle") else None
    return reason

"""Exports a model in every variant, each proved to answer as the model does."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from components.backends.directory import open_directory
from components.embedder import Embedder, OnnxEmbedder
from components.errors import UsageError
from components.export.config import VARIANTS, Export
from components.export.exporters import exporter_of
from components.export.parity import Parity, demand, parity
from components.export.rotation import write_rotated
from components.export.sample import of_each_modality, training_items
from components.export.tensorrt.export import export_tensorrt
from components.files import atomic_directory

PARITY, GRAPHS, TENSORRT = "parity.json", ".graphs", "tensorrt"
BATCH_SIZE = 64


def export(config: Export, model: Path, data: Path, output: Path) -> dict[str, Parity]:
    """Writes `output/VARIANT` of each variant of a model directory, and `output/parity.json`, which it returns.

    Where `config.tensorrt` asks for them, `output/tensorrt` holds the engines. Raises `UsageError` if no exporter reads
    the directory, if there are no data to compare on, or if no engine can be built here, and `Refused`, and writes
    nothing, if a variant or an engine answers otherwise than the model.
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
        for variant in config.variants:
            VARIANTS.of(variant).write(variant, partial / GRAPHS, partial / variant.name, items)
            report[variant.name] = parity(reference, OnnxEmbedder(partial / variant.name), sample)
            demand(report[variant.name], variant.name, variant.parity_cosine)
        if config.tensorrt is not None:
            export_tensorrt(partial / GRAPHS, partial / TENSORRT, config.tensorrt, items)
        shutil.rmtree(partial / GRAPHS)
        content = {variant: asdict(found) for variant, found in report.items()}
        (partial / PARITY).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


def require_former_export(output: Path) -> None:
    """Raises `UsageError` if there is something at `output` that an export would delete and has not written."""
    if output.exists() and not (output / PARITY).is_file():
        raise UsageError(f"{output}: is there, and holds no export", "Name a new folder, or one of an earlier export.")

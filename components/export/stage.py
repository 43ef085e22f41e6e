"""The stage `export`: a student to ONNX, in every variant, each proved to answer as the student does."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from components.embedder import OnnxEmbedder, TorchEmbedder
from components.export.config import VARIANTS, Export
from components.export.onnx_graphs import export
from components.export.parity import Parity, demand, parity
from components.export.sample import of_each_modality, training_items
from components.files import atomic_directory

PARITY, GRAPHS = "parity.json", ".graphs"


def run(config: Export, student: Path, data: Path, output: Path) -> dict[str, dict[str, float]]:
    """Writes `output/VARIANT` of each variant, and `output/parity.json`; returns the numbers of the latter by variant.

    Raises `Refused`, and writes nothing, if a variant answers otherwise than the student.
    """
    reference, items = TorchEmbedder(student), training_items(data)
    sample = of_each_modality(items, config.parity_items)
    with atomic_directory(output) as partial:
        export(reference.encoder, partial / GRAPHS, config.opset)
        report: dict[str, Parity] = {}
        for variant in config.variants:
            VARIANTS.of(variant).write(variant, partial / GRAPHS, partial / variant.name, items)
            report[variant.name] = parity(reference, OnnxEmbedder(partial / variant.name), sample)
            demand(report[variant.name], variant.name, variant.parity_cosine)
        shutil.rmtree(partial / GRAPHS)
        content = {variant: asdict(found) for variant, found in report.items()}
        (partial / PARITY).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {variant: found.numbers for variant, found in report.items()}

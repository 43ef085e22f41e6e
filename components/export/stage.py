"""The stage `export`: a student to ONNX, as fp32 and as int8, each proved to answer as the student does."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from components.artifact import whole
from components.embedder import OnnxEmbedder, TorchEmbedder
from components.export.config import Export
from components.export.onnx_graphs import export
from components.export.parity import Parity, demand, parity
from components.export.quantisation import quantise
from components.export.sample import of_each_modality, pictures, training_items

PARITY = "parity.json"
CALIBRATION_IMAGES = 256


def run(config: Export, student: Path, data: Path, output: Path) -> dict[str, dict[str, float]]:
    """Writes `output/fp32`, `output/int8` and `output/parity.json`; returns the numbers of the latter by variant.

    Raises `Refused`, and writes nothing, if a variant answers otherwise than the student.
    """
    reference, items = TorchEmbedder(student), training_items(data)
    sample = of_each_modality(items, config.parity_items)
    with whole(output) as partial:
        export(reference.encoder, partial / "fp32", config.opset)
        quantise(partial / "fp32", partial / "int8", pictures(items, CALIBRATION_IMAGES))
        report: dict[str, Parity] = {}
        for variant, least in config.parity_cosine:
            report[variant] = parity(reference, OnnxEmbedder(partial / variant), sample)
            demand(report[variant], variant, least)
        content = {variant: asdict(found) for variant, found in report.items()}
        (partial / PARITY).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return {variant: found.numbers for variant, found in report.items()}

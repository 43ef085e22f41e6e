"""The stage `export`: the student as ONNX graphs, each variant proved to answer as the student does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.export.export import export
from components.workspace import DATA, ONNX, STUDENT

if TYPE_CHECKING:
    from components.config import Config
    from components.registry.tracking import Run

SECTIONS = CHOOSES = ("export",)
FINDS = ("components.export.exporters", "components.export.runtimes")


def run(config: Config, run: Run) -> None:
    for variant, found in export(config.export, STUDENT, DATA, ONNX).items():
        run.log_metrics({f"parity/{variant}/{name}": value for name, value in found.numbers.items()})

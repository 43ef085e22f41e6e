"""Whether a whole student can be exported, asked before anything is trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from components.backends.directory import MODULES, find_directory
from components.backends.tiny import write_tiny
from components.backends.whole_model import RANDOM
from components.errors import UsageError
from components.export.exporters import EXPORTERS, exporter_of

CONFIG = "config.json"
AS_SAVED = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}]


def require_exportable(model: str) -> None:
    """Raises `UsageError` if no exporter reads what training a whole `model` will save; it is named as in a recipe."""
    with TemporaryDirectory() as folder:
        directory = Path(folder, "model")
        if model.startswith(RANDOM):
            write_tiny(model.removeprefix(RANDOM), directory)
        else:
            directory = find_directory(model)
        if not (directory / MODULES).is_file() and (directory / CONFIG).is_file():
            saved = Path(folder, "saved")
            saved.mkdir()
            shutil.copyfile(directory / CONFIG, saved / CONFIG)
            (saved / MODULES).write_text(json.dumps(AS_SAVED), encoding="utf-8")
            directory = saved
        try:
            exporter_of(directory)
        except UsageError as error:
            raise UsageError(
                f"distillation.backbone: {model} cannot be exported; the classes are {', '.join(EXPORTERS.names())}",
                "Name a model of one of these classes, or train towers.",
            ) from error

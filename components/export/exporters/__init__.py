"""How models leave the line: one file for each class of backbone, which says whether a model is of its class.

`NAME.py` holds `reads(directory)`, whether a model directory is of its class, from its files alone, and
`export(directory, target, opset)`, which writes to `target` the graphs in fp32, all that computes vectors with them,
and the `runtime.py` that does: a file which imports nothing of this project and has a class `Runtime`, as
`components/embedder/runtime.py` has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.errors import UsageError
from components.found_by_name import FoundByName

EXPORTERS = FoundByName("components.export.exporters", "name")


def exporter_of(directory: Path) -> Any:
    """Returns the module that exports the model in a directory. Raises `UsageError` if none does."""
    for name in EXPORTERS.names():
        exporter = EXPORTERS.module(name)
        if exporter.reads(directory):
            return exporter
    raise UsageError(
        f"{directory}: no model that can be exported; the classes are {', '.join(EXPORTERS.names())}",
        "Name a directory that `embedline` or sentence-transformers has written.",
    )

"""How models leave the line: one file for each class of backbone, which says whether a model is of its class.

`NAME.py` holds `reads(directory)`, whether a model directory is of its class, from its files alone, and
`export(directory, target, opset)`, which writes to `target` the graphs in fp32, all that computes vectors with them,
and the `runtime.py` that does: a file which imports nothing of this project and has a class `Runtime`, as
`components/embedder/runtime.py` has. Where its graphs have convolutions, `calibration(source, items, most)` gives what
they are fed for at most `most` of the items, in batches, by the names of their files; `source` is what `export` wrote,
which `reads` then knows as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.corpus import Item
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


def calibration_of(source: Path, items: Sequence[Item], most: int) -> Mapping[str, Iterable[Any]]:
    """Returns what the graphs in `source` are fed, by their files' names; nothing where their class says nothing."""
    modules = [EXPORTERS.module(name) for name in EXPORTERS.names()]
    found = [module for module in modules if hasattr(module, "calibration") and module.reads(source)]
    fed: Mapping[str, Iterable[Any]] = found[0].calibration(source, items, most) if found else {}
    return fed

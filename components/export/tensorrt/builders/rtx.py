"""TensorRT for RTX, from PyPI: builds without a GPU, and compiles the kernels where the engine runs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import UsageError

PACKAGE = "tensorrt_rtx"
DEFAULT_TARGET = "sm80-plus"
"""What an engine without targets is for: Ampere, and what comes after it."""


def missing() -> str | None:
    if importlib.util.find_spec(PACKAGE) is None:
        return f"the package {PACKAGE} is not installed (pip install 'embedline[tensorrt]')"
    return None


def api() -> Any:
    return importlib.import_module(PACKAGE)


def target(targets: Sequence[str]) -> str:
    return "-".join(targets) or DEFAULT_TARGET


def configure(api: Any, config: Any, targets: Sequence[str], _cache: Path) -> None:
    """Raises `UsageError` for an architecture that this version has no name for. There is no timing cache."""
    known = {name.lower(): value for name, value in api.ComputeCapability.__members__.items() if name[:2] == "SM"}
    config.num_compute_capabilities = len(targets)
    for number, name in enumerate(targets):
        if name not in known:
            raise UsageError(f"TensorRT-RTX builds nothing for {name}", f"Its targets are {', '.join(sorted(known))}.")
        config.set_compute_capability(known[name], number)


def finish(config: Any, cache: Path) -> None:
    """The cache of TensorRT-RTX is made where an engine runs."""

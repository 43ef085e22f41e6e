"""TensorRT itself, from NVIDIA's package index: builds by timing kernels on the very GPU that is to run the engine."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.errors import UsageError
from components.export.tensorrt.gpu import architecture, missing_gpu
from components.files import atomic_file

PACKAGE = "tensorrt"


def missing() -> str | None:
    if importlib.util.find_spec(PACKAGE) is None:
        return f"the package {PACKAGE} is not installed; it comes from NVIDIA's own package index"
    return missing_gpu()


def api() -> Any:
    return importlib.import_module(PACKAGE)


def target(_targets: Sequence[str]) -> str:
    return architecture()


def configure(_api: Any, config: Any, targets: Sequence[str], cache: Path) -> None:
    """Takes the timings of earlier builds from `cache`. Raises `UsageError` for another GPU than the one here."""
    if set(targets) - {architecture()}:
        raise UsageError(
            f"TensorRT builds for the GPU that is here, {architecture()}, and not for {', '.join(targets)}",
            "Leave targets empty, or build where such a GPU is.",
        )
    config.set_timing_cache(config.create_timing_cache(cache.read_bytes() if cache.is_file() else b""), False)


def finish(config: Any, cache: Path) -> None:
    with atomic_file(cache) as partial:
        partial.write_bytes(bytes(config.get_timing_cache().serialize()))

"""Exported graphs as OpenVINO's own, which `session` of `components/embedder/runtime.py` opens by their type."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

from components.embedder.embedders import RUNTIME
from components.embedder.runtime import RT_INFO, OpenVinoSession
from components.errors import Refused, UsageError
from components.export.onnx_graphs import DATA


def convert(source: Path, directory: Path, precision: Literal["f32", "bf16"]) -> None:
    """Writes to `directory` what lies in `source`, each graph `NAME.onnx` as `NAME.xml` and `NAME.bin`.

    The weights stay fp32; the graphs say that they are computed in `precision`. Raises `UsageError` if OpenVINO is not
    installed, and `Refused` if the class's runtime opens no such graphs.
    """
    openvino = installed()
    if OpenVinoSession.__name__ not in (source / RUNTIME).read_text(encoding="utf-8"):
        raise Refused("the runtime of models of this class opens no graphs of OpenVINO", "Choose another variant.")
    shutil.copytree(source, directory, ignore=shutil.ignore_patterns("*.onnx", f"*.onnx{DATA}"))
    core = openvino.Core()
    for path in sorted(source.glob("*.onnx")):
        model = core.read_model(path)
        model.set_rt_info(precision, list(RT_INFO))
        openvino.save_model(model, directory / f"{path.stem}.xml", compress_to_fp16=False)


def missing_bf16() -> str | None:
    """Returns why this processor computes nothing in bfloat16, or None if it does. Raises as `convert` does."""
    has = installed().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return None if "BF16" in has else f"this processor has no bfloat16, only {', '.join(has)}"


def installed() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UsageError("OpenVINO is not installed", 'Install it: pip install "embedline[openvino]"') from error
    return openvino

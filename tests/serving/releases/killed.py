"""What the processes do that `test_kills.py` kills."""

from __future__ import annotations

import os
from pathlib import Path

from serving.releases.deploy import release


def act(root: Path, version: int | None, canary: float | None, shadow: float | None) -> None:
    os.chdir(root)
    release(Path(".embedline"), version, canary, shadow, ())

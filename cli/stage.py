"""`embedline stage`: one stage, as dvc.yaml calls it."""

from __future__ import annotations

from typing import Annotated

import typer


def stage(name: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")]) -> None:
    """Run one stage in this folder, as `dvc repro` does.

    Example: `embedline stage teacher`
    """
    from components.stages import run_stage

    run_stage(name)

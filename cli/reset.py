"""`embedline reset`: forgetting all rounds, which means deleting what they have made in a workspace."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Machine
from cli.screen import confirm, say, screen
from components.errors import UsageError
from components.workspace import ARTIFACTS, CHECKPOINTS, DATA, STATE

MADE_BY_ROUNDS = (
    *(ARTIFACTS, CHECKPOINTS, DATA, STATE),
    *map(Path, (".data.partial", ".data.old", "search.html", ".dvc/cache", ".dvc/tmp", "dvc.lock")),
)


def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, machine: Machine = False) -> None:
    """Forget all rounds: delete the data set, artifacts, DVC's cache, the ledger, and MLflow's database; asks first.

    Example: `embedline reset`
    """
    found = [str(path) for path in made_by_rounds(Path())]
    if found and not yes:
        confirm(f"for good: {', '.join(found)}", "embedline reset")
    delete(Path())
    if machine:
        say({"deleted": found})
    else:
        screen.print(f"Deleted: {', '.join(found) or 'nothing was there'}.", markup=False)


def made_by_rounds(root: Path) -> list[Path]:
    """Returns what is there of all that rounds make: data, models, DVC's cache, the ledger and MLflow's database."""
    return [root / name for name in MADE_BY_ROUNDS if (root / name).exists()]


def delete(root: Path) -> None:
    """Deletes `made_by_rounds`. Raises `UsageError`, and deletes nothing, while a round or a server uses it."""
    from components import lineage
    from serving import TritonServer

    with lineage.lock(root):
        if server := TritonServer.find(root / STATE):
            raise UsageError(f"{root.resolve()}: Triton serves from it on {server.url}", "Stop it, then try again.")
        for path in made_by_rounds(root):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

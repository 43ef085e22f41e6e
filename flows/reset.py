"""Forgetting all rounds: what they have made in a workspace, and its deletion."""

from __future__ import annotations

import shutil
from pathlib import Path

from components import lineage
from components.errors import UsedWrongly
from serving import TritonServer

HOME = ".embedline"
MADE_BY_ROUNDS = (
    *("artifacts", "checkpoints", "data", ".data.partial", ".data.old", "search.html"),
    *(".dvc/cache", ".dvc/tmp", "dvc.lock", HOME),
)


def made_by_rounds(root: Path) -> list[Path]:
    """Returns what is there of all that rounds make: data, models, DVC's cache, the ledger and MLflow's database."""
    return [root / name for name in MADE_BY_ROUNDS if (root / name).exists()]


def delete(root: Path) -> None:
    """Deletes `made_by_rounds`. Raises `UsedWrongly`, and deletes nothing, while a round or a server uses it."""
    with lineage.lock(root):
        if server := TritonServer.find(root / HOME):
            raise UsedWrongly(f"{root.resolve()}: Triton serves from it on {server.url}", "Stop it, then try again.")
        for path in made_by_rounds(root):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

"""DVC's remote: what a round made goes there, and what is not here comes from there."""

from __future__ import annotations

from pathlib import Path

from components.lineage.versions import data_hash, dvc, outputs
from components.storage import Remote

NAME = "embedline"


def push(root: Path, remote: Remote) -> None:
    """Copies data and artifacts of the present to the remote. Raises `EmbedlineError` if it cannot be reached."""
    configure(root, remote)
    dvc(root, "push", "--quiet", "--remote", NAME)


def pull(root: Path, remote: Remote) -> list[str]:
    """Fetches what `data.dvc` and `dvc.lock` name and DVC has not; puts what is missing in the workspace where it
    belongs, and returns that. What is there stays as it is, and what the remote lacks is left to the round.

    Raises `EmbedlineError` if it cannot be reached.
    """
    configure(root, remote)
    dvc(root, "fetch", "--quiet", "--remote", NAME)
    named = {**({"data": data_hash(root)} if (root / "data.dvc").is_file() else {}), **outputs(root)}
    missing = [path for path in named if not (root / path).exists()]
    if missing:
        dvc(root, "checkout", "--quiet", "--allow-missing", *missing)
    return [path for path in missing if (root / path).exists()]


def configure(root: Path, remote: Remote) -> None:
    """Writes the remote into DVC's local settings, which are not committed."""
    from dvc.config import Config

    with Config(str(root / ".dvc")).edit("local", validate=False) as settings:
        settings.setdefault("remote", {})[NAME] = remote.settings

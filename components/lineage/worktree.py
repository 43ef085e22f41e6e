"""A workspace as it was: the commit and how the code differed from it, the lock file, the data; beside the present."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from components.errors import EmbedlineError, UsageError
from components.lineage.versions import LOCK_FILE, dvc, inputs
from components.lineage.workspace import git, prepare

CONFIGS = ("config", "config.local")


@contextmanager
def checked_out(root: Path, commit: str, difference: Path | None, lock: Path, into: Path) -> Iterator[Path]:
    """Yields a workspace in the new folder `into` that is as one was; git forgets it if anything fails.

    `difference` is what the code differed by from the commit, `lock` its `dvc.lock`. The data come from DVC's cache, or
    from its remote where there is one. Raises `EmbedlineError` if the commit or the data are gone.
    """
    if into.exists() and any(into.iterdir()):
        raise UsageError(f"{into}: is not empty", "Name a new folder.")
    git(root, "worktree", "add", "--quiet", "--detach", "--force", str(into.resolve()), commit)
    try:
        workspace = into.resolve() / git(root, "rev-parse", "--show-prefix").strip()
        if difference is not None and difference.stat().st_size:
            git(workspace, "apply", "--whitespace=nowarn", str(difference.resolve()))
        for name in CONFIGS:
            if (root / ".dvc" / name).is_file():
                shutil.copyfile(root / ".dvc" / name, workspace / ".dvc" / name)
        prepare(workspace)
        dvc(workspace, "cache", "dir", "--local", dvc(root, "cache", "dir").strip())
        shutil.copyfile(lock, workspace / LOCK_FILE)
        check_out_data(workspace)
        yield workspace
    except BaseException:
        remove(root, into)
        raise


def check_out_data(workspace: Path, path: str = "data") -> None:
    """Puts the data set that `dvc.lock` names where the stages expect it. Raises `EmbedlineError` if it is gone."""
    if (entry := inputs(workspace).get(path)) is None:
        raise EmbedlineError(f"{LOCK_FILE} names no data set", "The round that made it was not this line's.")
    (workspace / f"{path}.dvc").write_text(yaml.safe_dump({"outs": [entry]}), encoding="utf-8")
    if dvc(workspace, "remote", "list").strip():
        dvc(workspace, "fetch", f"{path}.dvc")
    dvc(workspace, "checkout", "--quiet", f"{path}.dvc")


def remove(root: Path, folder: Path) -> None:
    """Removes a workspace that `checked_out` has made, and all that was made in it."""
    git(root, "worktree", "remove", "--force", "--force", str(folder.resolve()))

"""A copy of the ledger where this workspace's disk and MLflow's database do not reach, or where git remembers it.

Who can write to the workspace can write a whole new chain of lines with the right hashes; this copy shows it then.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import fsspec

from components.errors import EmbedlineError
from components.files import atomic_file

REMOTE = "://"


def check(root: Path, location: str, ledger: Sequence[bytes], known: bool) -> list[bytes]:
    """Returns the lines that the mirror has, the beginning of the ledger's; the last one may be missing, where a change
    was killed before it was copied.

    `known` says that this mirror was written before. Raises `EmbedlineError` that names the first line which differs.
    """
    if not (lines := read(root, location)) and known and ledger:
        raise _differs(location, 1, "is gone from the mirror: all of it is")
    for number, (ours, theirs) in enumerate(zip_longest(ledger, lines), 1):
        if ours is None:
            raise _differs(location, number, "is in the mirror, and the ledger has lost it")
        if theirs is not None and ours != theirs:
            raise _differs(location, number, "is another one in the mirror")
        if theirs is None and known and number > len(lines) + 1:
            raise _differs(location, number - 1, "and later ones never reached the mirror")
    for number, (committed, present) in enumerate(zip(committed_lines(root, location), ledger, strict=False), 1):
        if committed != present:
            raise _differs(location, number, "is another one in the commit of git")
    return lines


def read(root: Path, location: str) -> list[bytes]:
    """Returns the lines of the mirror, none before the first. Raises `EmbedlineError` if it cannot be reached."""
    try:
        if REMOTE not in location:
            path = root / location
            return path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        filesystem, path = fsspec.url_to_fs(location)
        filesystem.invalidate_cache()
        return filesystem.cat_file(path).splitlines(keepends=True) if filesystem.exists(path) else []
    except _unreachable() as error:
        raise _cannot(location, "read", error) from error


def write(root: Path, location: str, lines: Sequence[bytes]) -> None:
    """Replaces the mirror, whole or not at all. Raises `EmbedlineError` if it cannot be written."""
    try:
        if REMOTE in location:
            filesystem, path = fsspec.url_to_fs(location)
            filesystem.pipe_file(path, b"".join(lines))
        else:
            with atomic_file(root / location) as partial:
                partial.write_bytes(b"".join(lines))
    except _unreachable() as error:
        raise _cannot(location, "written", error) from error


def committed_lines(root: Path, location: str) -> list[bytes]:
    """Returns the lines of the mirror in the commit that is checked out; none where git does not have the file."""
    if REMOTE in location:
        return []
    path = (root / location).resolve()
    shown = subprocess.run(["git", "show", f"HEAD:./{path.name}"], cwd=path.parent, capture_output=True)
    return shown.stdout.splitlines(keepends=True) if shown.returncode == 0 else []


def _unreachable() -> tuple[type[BaseException], ...]:
    """What file systems raise; that of S3 is an option, and so are its errors."""
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return (OSError, ValueError)
    return (OSError, ValueError, BotoCoreError)


def _cannot(location: str, what: str, error: BaseException) -> EmbedlineError:
    return EmbedlineError(
        f"registry.mirror: {location} cannot be {what}: {error}",
        "Nothing changes its role without the mirror. Correct the setting or the credentials.",
    )


def _differs(location: str, line: int, what: str) -> EmbedlineError:
    return EmbedlineError(
        f"line {line} of the ledger {what} ({location})",
        "One of the two was tampered with: find out which before anything is promoted.",
    )

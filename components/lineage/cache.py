"""DVC's local cache: which files of it some lock file still needs, and which none does."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from components.errors import EmbedlineError
from components.lineage.versions import LOCK_FILE
from components.lineage.workspace import git

CACHE = Path(".dvc", "cache", "files", "md5")
FOLDER = ".dir"
"""What the hash of a folder ends with; the cached file of that name lists the hashes of what is in it."""


def unneeded(root: Path, kept: Iterable[str]) -> list[Path]:
    """Returns the cached files that nothing names: no lock file whose text is in `kept`, no `dvc.lock` and no `*.dvc`
    of the workspace, of a branch or of a tag. A cache that is shared with others is not looked at."""
    cache = root / CACHE
    needed = _with_contents(cache, {value for text in (*kept, *_written(root)) for value in hashes(text)})
    return [file for file in sorted(cache.glob("??/*")) if f"{file.parent.name}{file.name}" not in needed]


def hashes(text: str) -> set[str]:
    """Returns every DVC hash in the text of a `dvc.lock` or a `*.dvc`. Raises `EmbedlineError` if it is no YAML."""
    try:
        return set(_hashes(yaml.safe_load(text)))
    except yaml.YAMLError as error:
        raise EmbedlineError(f"a file that names what DVC has cached cannot be read: {error}", "Correct it.") from error


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Keeps DVC itself out of the workspace meanwhile. Raises `EmbedlineError` if it is at work there."""
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repository, repository.lock:
            yield
    except LockError as error:
        raise EmbedlineError(f"{root}: DVC is at work here: {error}", "Wait until it has ended.") from error


def _written(root: Path) -> Iterator[str]:
    """Yields the texts that name cached files: those that lie in the workspace, and those of all branches and tags."""
    for name in git(root, "ls-files", "-z", "-co", "--", f"*{LOCK_FILE}", "*.dvc").split("\0"):
        if name and (root / name).is_file():
            yield (root / name).read_text(encoding="utf-8")
    prefix = git(root, "rev-parse", "--show-prefix").strip()
    for reference in set(git(root, "for-each-ref", "--format=%(objectname)").split()):
        for name in git(root, "ls-tree", "-r", "-z", "--name-only", reference).split("\0"):
            if name.endswith((LOCK_FILE, ".dvc")):
                yield git(root, "show", f"{reference}:{prefix}{name}")


def _hashes(content: Any) -> Iterator[str]:
    if isinstance(content, Mapping):
        if isinstance(content.get("md5"), str):
            yield content["md5"]
        content = list(content.values())
    if isinstance(content, list):
        for each in content:
            yield from _hashes(each)


def _with_contents(cache: Path, named: Collection[str]) -> set[str]:
    """Returns the hashes, and those of all files in the folders among them."""
    contents: set[str] = set()
    for value in named:
        listing = cache / value[:2] / value[2:]
        if value.endswith(FOLDER) and listing.is_file():
            contents |= set(_hashes(json.loads(listing.read_text(encoding="utf-8"))))
    return contents | set(named)

"""What the files of a data set hold now: their SHA-256, remembered while a file stays as it is, and the digest of all.

A file counts as unchanged while its size, inode and both times are the same: the time of its last change cannot be set
back, as that of its last write can.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from components.corpus.manifest import MANIFEST, Manifest, data_digest
from components.errors import DataInvalid
from components.files import file_sha256

FRESH_NS = 2 * 10**9
"""A file that changed so shortly before it was hashed is not remembered: it may change again within its time stamp."""
NAMED = 3


class FileHashes:
    """The SHA-256 of files below `root`; `memory`, a JSON file, spares the next process those that have not changed."""

    def __init__(self, root: Path, memory: Path | None) -> None:
        self.root, self.memory = root, memory
        self.known: dict[str, tuple[list[int], str]] = _remembered(memory)

    def of(self, files: Sequence[Path]) -> dict[Path, str]:
        """Returns the hash of each file. Raises `DataInvalid` naming one that cannot be read."""
        try:
            return {file: self._hash(file) for file in files}
        except OSError as error:
            raise DataInvalid(f"{error.filename} cannot be read: {error.strerror}", "Get the data again.") from error

    def keep(self) -> None:
        """Writes what is known to the memory."""
        if self.memory:
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            partial = self.memory.with_name(f".{self.memory.name}.{os.getpid()}.partial")  # others may write theirs
            partial.write_text(json.dumps(self.known), encoding="utf-8")
            partial.replace(self.memory)

    def _hash(self, file: Path) -> str:
        name, began, found = str(file).removeprefix(f"{self.root}{os.sep}"), time.time_ns(), file.stat()
        stamp = [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
        if name in self.known and self.known[name][0] == stamp:
            return self.known[name][1]
        sha256 = file_sha256(file)
        is_fresh = began - max(found.st_mtime_ns, found.st_ctime_ns) <= FRESH_NS
        self.known[name] = [] if is_fresh else stamp, sha256
        return sha256


def verified_digest(data: Path, cache: Path | None, described: Callable[[Path], str] = str) -> str:
    """Returns the digest of a data set, computed from its files; hashes are remembered in the folder `cache`.

    Raises `DataInvalid` if it is not what the manifest says. The error names the first files that differ from those
    that were verified here last, or, if none were, that were written after the manifest, each as it is `described`.
    """
    manifest = Manifest.read(data)
    hashes = FileHashes(data, cache and cache / f"{manifest.digest}.json")
    remembered = dict(hashes.known)
    files = [Path(folder, name) for folder, _, names in os.walk(data) for name in names]
    found = hashes.of([file for file in files if file != data / MANIFEST])
    if (digest := data_digest(data, found.__getitem__)) == manifest.digest:
        hashes.keep()
        return digest
    if remembered:
        before = {data / name: sha256 for name, (_, sha256) in remembered.items()}
        differ = [file for file in {**before, **found} if before.get(file) != found.get(file)]
    else:
        written = (data / MANIFEST).stat().st_mtime_ns
        differ = [file for file in found if file.stat().st_mtime_ns > written]
    named = "; ".join([*map(described, sorted(differ)[:NAMED]), *(["..."] if len(differ) > NAMED else [])])
    raise DataInvalid(
        f"{data}: the files are not those that {MANIFEST} vouches for: {named or 'one was changed, added or removed'}",
        "Bring them back with `dvc checkout data`, or build the data set again with `embedline ingest`.",
    )


def _remembered(memory: Path | None) -> dict[str, tuple[list[int], str]]:
    """Returns what a memory holds, nothing if there is none or it is broken: everything is then hashed again."""
    try:
        content = json.loads(memory.read_text(encoding="utf-8")) if memory else {}
        return {name: (list(stamp), str(sha256)) for name, (stamp, sha256) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}

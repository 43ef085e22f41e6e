"""Files and folders that are there whole or not at all, and digests of what they hold."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 256


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a path beside `path`; what is written there takes the place of `path` if nothing fails.

    A file has one writer at a time. What a killed one left is written over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        with suppress(OSError):  # what went wrong in writing is what is raised
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; half a surrogate pair becomes a question mark.

    Raises `UsageError` where nothing can be written, `OSError` if the disk is full.
    """
    try:
        with atomic_file(path) as partial:
            partial.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", "Name a file in a folder that can be written to."
        ) from error


@contextmanager
def atomic_directory(output: Path) -> Iterator[Path]:
    """Yields a new folder that takes the place of `output` if nothing fails, and is removed if something does."""
    partial, old = (output.with_name(f".{output.name}.{state}") for state in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        output.rename(old)
    partial.rename(output)
    shutil.rmtree(old, ignore_errors=True)


def memory_mapped(
    path: Path, shape: tuple[int, ...], dtype: Any, chunk: Callable[[int, int], NDArray[Any]]
) -> NDArray[Any]:
    """Returns an array of `shape`, mapped from `path`, which `chunk(start, stop)` fills unless it is there already."""
    import numpy as np

    if not path.is_file():
        with atomic_file(path) as partial:
            array = np.lib.format.open_memmap(partial, "w+", dtype, shape)
            for start in range(0, shape[0], CHUNK):
                stop = min(start + CHUNK, shape[0])
                array[start:stop] = chunk(start, stop)
            array.flush()
    stored: NDArray[Any] = np.load(path, mmap_mode="r")
    return stored


def file_sha256(file: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Returns how many bytes all files under `folder` have."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def folder_sha256(
    folder: Path, leave_out: frozenset[str] = frozenset(), sha256: Callable[[Path], str] = file_sha256
) -> str:
    """Returns one SHA-256 over the relative paths and contents of all files under `folder`, sorted by path."""
    digest = hashlib.sha256()
    for directory, subdirectories, names in os.walk(folder):
        subdirectories.sort()
        for name in sorted(names):
            file = Path(directory, name)
            path = file.relative_to(folder).as_posix()
            if path not in leave_out:
                digest.update(f"{path}\0{sha256(file)}\n".encode())
    return digest.hexdigest()

"""Artifacts appear whole or not at all: written beside their place, renamed when complete."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from components.errors import UsageError


@contextmanager
def whole(output: Path) -> Iterator[Path]:
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


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all; characters that UTF-8 has not become `?`.

    Raises `UsageError` where nothing can be written, `OSError` if the disk is full.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", errors="replace")
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise
        raise UsageError(
            f"{path} cannot be written: {error.strerror}", "Name a file in a folder that can be written to."
        ) from error

"""Files inside tar and zip archives, read one after the other; names that would leave the folder are refused."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from components.corpus.images import safe_path
from components.corpus.quarantine import Quarantine, Rejected
from components.errors import DataInvalid

Entries = Generator[tuple[str, IO[bytes] | None], None, None]
BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


@contextmanager
def intact(archive: Path) -> Iterator[None]:
    """Turns what reading a broken archive raises inside into `DataInvalid`."""
    try:
        yield
    except BROKEN as error:
        raise DataInvalid(f"{archive} is broken: {error}", "Fetch the archive again.") from error


def members(archive: Path, quarantine: Quarantine) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """Yields name and content of each regular file, in the order of the archive; a content is read before the next.

    Links and names that lead out of the archive go to the quarantine.
    """
    with closing(_zip(archive) if archive.suffix == ".zip" else _tar(archive)) as entries:
        for number, (name, stream) in enumerate(entries):
            try:
                if stream is None:
                    raise Rejected("unsafe path", f"{name} is a link or a device")
                path = safe_path(name)
            except Rejected as rejected:
                with quarantine.row(archive.name, number):
                    raise rejected
            else:
                yield path, stream


def extract(archive: Path, folder: Path, quarantine: Quarantine) -> None:
    """Writes the regular files of the archive below `folder`."""
    with intact(archive):
        for path, stream in members(archive, quarantine):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(stream, file)


def _tar(archive: Path) -> Entries:
    with tarfile.open(archive, "r|*") as tar:
        for member in tar:
            if not member.isdir():
                yield member.name, tar.extractfile(member) if member.isfile() else None
            tar.members.clear()  # type: ignore[attr-defined]  # else tarfile remembers every member it has passed


def _zip(archive: Path) -> Entries:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            if not member.is_dir():
                with zipped.open(member) as stream:
                    yield member.filename, stream

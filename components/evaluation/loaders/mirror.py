"""The folder that holds the published files: where in it a file lies, and whether it is whole.

A mirror holds each hub repository as `OWNER/NAME` or as `NAME`, the way `hf download --local-dir` writes it. Archives
may lie there packed or unpacked; a packed one is unpacked when it is first needed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from filelock import FileLock

from components.errors import DataInvalid, UsageError
from components.evaluation.benchmark import Source, Task
from components.files import atomic_directory, file_sha256

MEDIA = Source(
    repository="TIGER-Lab/MMEB-V2",
    configuration=None,
    split="test",
    revision="e7bbfeb69a70dfe32ff36da3d6d8dbe31fc36af1",
)
"""Images and frames of all sets of MMEB v2; their questions lie in repositories of their own."""
ARCHIVES = {
    "eval_images": "images.zip",
    "image-tasks/MMEB": "image-tasks/mmeb_v1.tar.gz",
    "video-tasks/frames/video_cls": "video-tasks/frames/video_cls.tar.gz",
    "video-tasks/frames/video_mret": "video-tasks/frames/video_mret.tar.gz",
    "video-tasks/frames/video_qa": "video-tasks/frames/video_qa.tar.gz",
    "video-tasks/frames/video_ret": "video-tasks/frames/video_ret.tar.gz",
    "visdoc-tasks/data": "visdoc-tasks/visdoc-tasks.data.tar.gz",
}
"""By the folder that it becomes: each published archive, in one file or in parts that end in -00, -01, ..."""
BROKEN = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError)
SHARD = re.compile(r"-(\d+)-of-(\d+)(-[0-9a-f]+)?$")


def published(name: str, task: Task) -> Source:
    """Returns where a set was published. Raises `UsageError` if its task does not say."""
    if task.source is None:
        raise UsageError(f"{name}: its task names no source", f"The layout {task.layout} needs one.")
    return task.source


def repository_folders(repository: str, mirror: Path) -> list[Path]:
    """Returns the folders of the mirror that may be the repository; they need not exist."""
    return [mirror / repository, mirror / repository.split("/")[-1]]


def media_folders(mirror: Path) -> list[Path]:
    """Returns the folders that may be `MEDIA`'s repository, which the mirror itself may be too."""
    return [*repository_folders(MEDIA.repository, mirror), mirror]


def tables(name: str, source: Source, mirror: Path, copies: Iterable[Path] = ()) -> list[Path]:
    """Returns the files of one table, shards in their order: from its repository, else from the first of `copies`,
    files or folders like the repository, that has it.

    Raises `DataInvalid` if there is none, if a shard is missing, or if a file is not the one that was published.
    """
    for place in chain(repository_folders(source.repository, mirror), copies):
        if found := [place] if place.is_file() else _first_match(place, _patterns(source)):
            _require_one_table(name, found)
            for file in found:
                verified_sha256(file)
            return found
    part = source.configuration or source.split
    raise DataInvalid(f"{name}: the table {part!r} of {source.repository} is not in {mirror}", advice(source, mirror))


def verified_sha256(file: Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal.

    `hf download` notes the hash that the hub publishes for each file below `.cache/huggingface/download`: SHA-256, or
    git's own for a small file. Raises `DataInvalid` if the file is not the one that was published.
    """
    status = file.stat()
    sha256 = _sha256(file, status.st_size, status.st_mtime_ns)
    for folder in file.parents:
        note = folder / ".cache/huggingface/download" / f"{file.relative_to(folder)}.metadata"
        if note.is_file():
            _, expected, *_ = [*note.read_text(encoding="utf-8").split(), "", ""]
            if expected and expected != (sha256 if len(expected) == len(sha256) else _git_sha1(file)):
                raise DataInvalid(
                    f"{file} is not what was published: its hash is not {expected}, which {note} says",
                    "Delete both files and download the first again.",
                )
            break
    return sha256


def unpacked(folder: Path, target: str) -> Path:
    """Returns `folder/target`, a folder of `ARCHIVES` that need not exist; unpacks it if only its archive is there.

    Raises `DataInvalid` if the archive is broken; then nothing of it is left.
    """
    parts = sorted(folder.glob(f"{ARCHIVES[target]}*"))
    try:
        return written_once(folder / target, partial(_unpack, parts, Path(target).name)) if parts else folder / target
    except BROKEN as error:
        names = ", ".join(part.name for part in parts)
        raise DataInvalid(
            f"{folder / ARCHIVES[target]} ({names}) is broken or incomplete: {error}", "Download it again."
        ) from error


def written_once(folder: Path, write: Callable[[Path], None]) -> Path:
    """Returns a folder that `write` fills if it does not exist; other processes that need it wait until it is whole."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.exists():
                with atomic_directory(folder) as unfinished:
                    write(unfinished)
    return folder


def advice(source: Source, mirror: Path, patterns: Sequence[str] = ()) -> str:
    """Returns the command that downloads a repository, or the files of it that match, to where they are looked for."""
    include = "".join(f" --include '{pattern}'" for pattern in patterns)
    return (
        f"Download it: hf download {source.repository} --repo-type dataset --revision {source.revision}{include} "
        f"--local-dir {mirror / source.repository}"
    )


def _patterns(source: Source) -> list[str]:
    """Returns where in its repository a table may lie, as patterns, from the most to the least usual."""
    name, split = source.configuration, source.split
    inside = (name, f"data/{name}") if name else ("data", "", "default", "*")
    named = (name, f"json/{name}", f"data/{name}") if name else (split, f"data/{split}")
    return [
        *(f"{folder}/{split}{rest}.parquet".lstrip("/") for folder in inside for rest in ("-*", "", "/*")),
        *(f"{table}.{suffix}" for table in named for suffix in ("parquet", "jsonl", "json")),
    ]


def _first_match(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return next((found for pattern in patterns if (found := sorted(folder.glob(pattern)))), [])


def _require_one_table(name: str, found: Sequence[Path]) -> None:
    """Raises `DataInvalid` if the files are several tables, or not all the shards that their names speak of."""
    if len(folders := {file.parent for file in found}) > 1:
        raise DataInvalid(
            f"{name}: could be in each of {', '.join(map(str, sorted(folders)))}", "Leave only one of these folders."
        )
    numbers = {int(match[1]): int(match[2]) for file in found if (match := SHARD.search(file.stem))}
    shards = max(numbers.values(), default=0)
    if missing := sorted(set(range(shards)) - set(numbers)):
        lost = SHARD.sub(f"-{missing[0]:05}-of-{shards:05}", found[0].stem)
        raise DataInvalid(f"{found[0].with_stem(lost)} is missing", "Download it again.")


@cache
def _sha256(file: Path, size: int, modified_ns: int) -> str:  # noqa: ARG001 (the key of the cache)
    """Returns the hash of a file that is looked at again only when it has changed: a corpus has gigabytes."""
    return file_sha256(file)


def _git_sha1(file: Path) -> str:
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


def _unpack(parts: Sequence[Path], name: str, folder: Path) -> None:
    if parts[0].suffix == ".zip":
        with zipfile.ZipFile(parts[0]) as zipped:
            zipped.extractall(folder)  # noqa: S202 (zipfile leaves no member outside the folder)
    else:
        _unpack_tar(parts, folder)
    # Some archives bring their own folder along, some only what belongs in it.
    if [child.name for child in folder.iterdir()] == [name]:
        inner = (folder / name).rename(folder / f".{name}.inner")
        for child in inner.iterdir():
            child.rename(folder / child.name)
        inner.rmdir()


def _unpack_tar(parts: Sequence[Path], folder: Path) -> None:
    with (
        io.BufferedReader(_Joined(parts)) as packed,
        gzip.GzipFile(fileobj=packed) as stream,
        # Some published archives are several tars in a row, of which others read only the first (VLM2Vec issue 201).
        tarfile.open(fileobj=stream, mode="r|", ignore_zeros=True) as archive,
    ):
        for member in archive:
            archive.extract(member, folder, filter="data")
            archive.members.clear()  # type: ignore[attr-defined]  # else tarfile remembers every member it has passed


class _Joined(io.RawIOBase):
    """The bytes of several files one after the other."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = iter(files)
        self._current: io.BufferedIOBase = io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not (count := self._current.readinto(buffer)):
            following = next(self._files, None)
            if following is None:
                return 0
            self._current.close()
            self._current = following.open("rb")
        return count

    def close(self) -> None:
        self._current.close()
        super().close()

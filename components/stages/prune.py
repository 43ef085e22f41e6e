"""What a workspace may lose: bundles, cached files and checkpoints that no version that stays, and no round, needs."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

from components import lineage
from components.files import folder_bytes
from components.lineage import cache
from components.registry import models, promotion, retention, tracking
from components.registry.tracking import Tracking
from components.storage import Storage
from components.workspace import CHECKPOINTS, VECTORS

SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Unneeded:
    """One thing that may go: what it is, its size, why nothing needs it, and how it is removed. `version` is the
    registered version whose bundle it is."""

    kind: str
    name: str
    bytes: int
    reason: str
    remove: Callable[[], object]
    version: str | None = None


@dataclass(frozen=True)
class Served:
    """What serving has: the versions that servers hold or routes name, and copies of others, which `remove` removes."""

    loaded: Collection[int] = ()
    copies: Mapping[int, Path] = field(default_factory=dict)
    remove: Callable[[int], object] = lambda version: None


@dataclass(frozen=True)
class Pruning:
    """What stays and why, by version, and what may go."""

    kept: Mapping[str, str]
    unneeded: tuple[Unneeded, ...]


def look(root: Path, settings: Storage, served: Served) -> Pruning:
    """Returns what may go; changes nothing."""
    tracked, champions = tracking.find(root), settings.keep_champions
    kept = retention.kept(tracked, promotion.history(tracked), served.loaded, champions) if tracked else {}
    return Pruning(
        kept,
        (
            *(_bundles(tracked, kept) if tracked else ()),
            *_copies(root, served, kept),
            *_cached(root, tracked, kept),
            *_checkpoints(root, settings.keep_checkpoint_days),
        ),
    )


def prune(root: Path, settings: Storage, served: Callable[[], Served]) -> Pruning:
    """Removes what may go, and returns it. Whatever it is killed at, the next one removes what is left.

    Nothing is promoted, rolled back or run meanwhile. A version is marked before its bundle goes. Raises `UsageError`
    while a round runs here.
    """
    with lineage.lock(root), cache.locked(root):
        tracked = tracking.prepare(root)
        with promotion.alone(tracked):
            found = look(root, settings, served())
            now = datetime.now(UTC).isoformat(timespec="seconds")
            for each in found.unneeded:
                if each.version:
                    models.mark_pruned(tracked, each.version, now)
            for each in found.unneeded:
                each.remove()
    return found


def _bundles(tracked: Tracking, kept: Collection[str]) -> Iterator[Unneeded]:
    for stored in retention.not_kept(tracked, kept):
        name = f"version {stored.version}" if stored.version else str(stored.model_id)
        reason = "plays no role and is no recent champion" if stored.version else "its registration was not finished"
        remove = partial(retention.remove, tracked, stored)
        yield Unneeded("bundle", name, stored.bytes, reason, remove, stored.version)


def _copies(root: Path, served: Served, kept: Collection[str]) -> Iterator[Unneeded]:
    """Yields what was fetched from the registry, to be served or evaluated."""
    fetched = {
        str(folder): (folder.name, partial(shutil.rmtree, folder)) for folder in (root / models.VERSIONS).glob("*")
    }
    copied = {str(folder): (str(version), partial(served.remove, version)) for version, folder in served.copies.items()}
    for place, (version, remove) in sorted((fetched | copied).items()):
        if version not in kept:
            yield Unneeded("copy", place, folder_bytes(Path(place)), f"version {version} is not kept", remove)


def _cached(root: Path, tracked: Tracking | None, kept: Collection[str]) -> Iterator[Unneeded]:
    if not (root / cache.CACHE).is_dir():
        return
    locks = lock_files(tracked, kept) if tracked else []
    for file in cache.unneeded(root, locks):
        name = f"{file.parent.name}{file.name}"
        yield Unneeded("DVC cache", name, file.stat().st_size, "no kept version, branch or tag names it", file.unlink)


def lock_files(tracked: Tracking, kept: Collection[str]) -> list[str]:
    """Returns the text of the `dvc.lock` of every round that made, or found again, a kept version."""
    known = models.versions(tracked)
    makers = {known[version]["round"] for version in kept}
    rounds = [
        run.info.run_id
        for run in tracking.runs(tracked)
        if run.info.run_id in makers or run.data.tags.get("version") in kept
    ]
    return [text for run in rounds if (text := _lock_file(tracked, run)) is not None]


def _lock_file(tracked: Tracking, run: str) -> str | None:
    if all(each.path != lineage.LOCK_FILE for each in tracked.client.list_artifacts(run)):
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(tracked.client.download_artifacts(run, lineage.LOCK_FILE, folder)).read_text(encoding="utf-8")


def _checkpoints(root: Path, days: float) -> Iterator[Unneeded]:
    """Yields what no training of the last days has written to: an interrupted one would train anew."""
    entries = chain((root / CHECKPOINTS).glob("*"), (root / VECTORS).glob("*"))
    for path in sorted(entries):
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        written = max((file.stat().st_mtime for file in files), default=path.stat().st_mtime)
        if path != root / VECTORS and time.time() - written > days * SECONDS_A_DAY:
            size = sum(file.stat().st_size for file in files)
            remove = partial(shutil.rmtree, path) if path.is_dir() else path.unlink
            yield Unneeded("checkpoint", str(path), size, f"unchanged for {days:g} days", remove)

"""Builds the data set from its source beside the old one, and swaps it in when it is complete."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from components.corpus.manifest import Built, Input, Manifest, Tasks, data_digest
from components.corpus.quarantine import QUARANTINE, Quarantine
from components.errors import DataInvalid, EmbedlineError

if TYPE_CHECKING:
    from components.config import Corpus


class Source(Protocol):
    """What a module of `components.corpus.sources` offers."""

    def inputs(self, config: Corpus) -> dict[str, Input]: ...

    def build(self, config: Corpus, directory: Path, quarantine: Quarantine) -> Tasks: ...


def ingest(config: Corpus, destination: Path) -> Manifest:
    """Builds the data set that `config` describes at `destination` and returns its manifest.

    Whatever is at `destination` stays until the new data set is complete. Raises `UsedWrongly` if the source
    cannot be found, and `DataInvalid` if it holds no rows, or too many that cannot be used; `quarantine.jsonl`,
    whose place the message names, then says which.
    """
    partial, old = (destination.with_name(f".{destination.name}.{name}") for name in ("partial", "old"))
    recover(destination, partial, old)
    partial.mkdir(parents=True)
    try:
        manifest = _build(config, partial)
        manifest.write(partial)
    except DataInvalid:
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if destination.exists():
        destination.replace(old)
    partial.replace(destination)
    shutil.rmtree(old, ignore_errors=True)
    return manifest


def is_current(config: Corpus, data: Path) -> bool:
    """Returns whether `data` was made with this configuration from inputs with the same hashes."""
    try:
        manifest = Manifest.read(data)
    except EmbedlineError:
        return False
    return manifest.corpus == config.model_dump(mode="json") and manifest.inputs == _inputs(config)


def recover(destination: Path, partial: Path, old: Path) -> None:
    """Clears what a killed ingest has left; the old data set comes back if it was killed between the two renames."""
    if old.exists() and not destination.exists():
        old.replace(destination)
    for left in (partial, old):
        if left.exists():
            shutil.rmtree(left)


def _build(config: Corpus, directory: Path) -> Manifest:
    with Quarantine(directory / QUARANTINE) as quarantine:
        built = _built(config, directory, quarantine)
    quarantine.check(config.quarantine_limit)
    if not built.tasks.rows:
        raise DataInvalid(
            f"corpus.location: {config.location} holds no usable row", "Check corpus.location and corpus.columns."
        )
    images = directory / "images"
    images.mkdir(exist_ok=True)
    return Manifest(
        name=config.name,
        source=config.source,
        licence=list(built.licence),
        inputs=built.inputs,
        corpus=config.model_dump(mode="json"),
        seed=config.seed,
        tasks=built.tasks,
        images=sum(len(names) for _, _, names in os.walk(images)),
        quarantined=quarantine.rejected,
        digest=data_digest(directory),
    )


def _built(config: Corpus, directory: Path, quarantine: Quarantine) -> Built:
    if config.source == "emoji":
        from components.corpus import emoji

        return emoji.build(config, directory)
    inputs = _inputs(config)
    tasks = _source(config).build(config, directory, quarantine)
    return Built(tasks=tasks, licence=(config.licence,), inputs=inputs)


def _inputs(config: Corpus) -> dict[str, Input]:
    if config.source == "emoji":
        from components.corpus import emoji

        return emoji.inputs(config)
    return _source(config).inputs(config)


def _source(config: Corpus) -> Source:
    """Returns the module of the source; imported by name, because each brings libraries of its own."""
    module: Source = importlib.import_module(f"components.corpus.sources.{config.source}")
    return module

"""Builds the data set from its source beside the old one, and swaps it in when it is complete."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from components.corpus import additions
from components.corpus.config import SOURCES, SourceSettings
from components.corpus.manifest import Input, Manifest, data_digest
from components.corpus.quarantine import QUARANTINE, Quarantine
from components.errors import DataInvalid, EmbedlineError


def ingest(config: SourceSettings, destination: Path) -> Manifest:
    """Builds the data set that `config` describes at `destination` and returns its manifest.

    Whatever is at `destination` stays until the new data set is complete. Raises `UsageError` if the source
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


def is_current(config: SourceSettings, data: Path) -> bool:
    """Returns whether `data` was made with this configuration from inputs with the same hashes."""
    try:
        manifest = Manifest.read(data)
    except EmbedlineError:
        return False
    return manifest.corpus == config.model_dump(mode="json") and manifest.inputs == all_inputs(config)


def all_inputs(config: SourceSettings) -> dict[str, Input]:
    """Returns what the data set is made from: the inputs of its source, and its additions."""
    return {**SOURCES.of(config).inputs(config), **additions.inputs(config)}


def recover(destination: Path, partial: Path, old: Path) -> None:
    """Clears what a killed ingest has left; the old data set comes back if it was killed between the two renames."""
    if old.exists() and not destination.exists():
        old.replace(destination)
    for left in (partial, old):
        if left.exists():
            shutil.rmtree(left)


def _build(config: SourceSettings, directory: Path) -> Manifest:
    source = SOURCES.of(config)
    inputs = all_inputs(config)
    with Quarantine(directory / QUARANTINE) as quarantine:
        tasks = additions.add(config, directory, quarantine, source.build(config, directory, quarantine))
    quarantine.check(config.quarantine_limit)
    if not tasks.rows:
        raise DataInvalid(
            f"corpus: {', '.join(inputs)} holds no usable row", "Check corpus.location and corpus.columns."
        )
    images = directory / "images"
    images.mkdir(exist_ok=True)
    return Manifest(
        name=config.name,
        source=config.source,
        licence=[config.licence],
        inputs=inputs,
        corpus=config.model_dump(mode="json"),
        seed=config.seed,
        tasks=tasks,
        images=sum(len(names) for _, _, names in os.walk(images)),
        quarantined=quarantine.rejected,
        digest=data_digest(directory),
    )

"""Ingest: sources in, one versioned data set out."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from components import config as configuration
from components import corpus, lineage
from components.config import Config
from components.corpus.pairs import joined
from components.errors import UsageError
from components.workspace import DATA


@task(name="ingest", cache_policy=NO_CACHE, persist_result=False)
def ingest_data(config: Config) -> str:
    """Builds the data set unless the present one is current, and returns its DVC hash.

    Raises `UsageError` if somebody has changed files of a current data set without adding them to DVC.
    """
    root = Path()
    if not corpus.is_current(config.corpus, DATA):
        manifest = corpus.ingest(config.corpus, DATA)
        get_run_logger().info(
            "%d rows, %d images, %d quarantined", manifest.tasks.rows, manifest.images, manifest.quarantined
        )
        if line := joined(DATA):
            get_run_logger().info(line)
        return lineage.add(root, str(DATA))
    if not Path("data.dvc").is_file():
        return lineage.add(root, str(DATA))
    if changes := lineage.unreviewed_changes(root, str(DATA)):
        raise UsageError(
            f"{DATA}/ differs from data.dvc: {changes}",
            "Accept the changes with `dvc add data`, or delete data/ to build it again.",
        )
    return lineage.data_hash(root)


@flow(name="ingest")
def ingest(parameters: Path = Path(configuration.PARAMETERS)) -> str:
    """Builds and versions the data set of `params.yaml`; returns its DVC hash."""
    config = configuration.read(parameters)
    with lineage.lock(Path()):
        lineage.prepare(Path())
        return ingest_data(config)

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
from components.traffic import keep, labelled
from components.workspace import DATA, LABELLED, STATE


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


@task(name="collect feedback", cache_policy=NO_CACHE, persist_result=False)
def collect_feedback(config: Config) -> int:
    """Writes the pairs that users have labelled to where `corpus.additions` reads them; returns how many are new."""
    if str(LABELLED) not in config.corpus.additions:
        get_run_logger().warning("corpus.additions has no %s: labelled feedback is not trained on", LABELLED)
        return 0
    new = keep(labelled(STATE), LABELLED)
    get_run_logger().info("%d new pairs from feedback", new)
    return new


@flow(name="ingest")
def ingest(parameters: Path = Path(configuration.PARAMETERS), feedback: bool = False) -> str:
    """Builds and versions the data set of `params.yaml`, with what users have labelled if `feedback` is asked for;
    returns its DVC hash."""
    config = configuration.read(parameters)
    with lineage.lock(Path()):
        lineage.prepare(Path())
        if feedback:
            collect_feedback(config)
        return ingest_data(config)

"""A round as OpenLineage events, from which Marquez, DataHub and others draw what was made of what.

A round is a run of the job `retrain`; each stage that ran is a job's run too, whose parent it is. Data sets are what
`dvc.lock` says that a stage took and made, apart from code, under their DVC hashes; the round itself takes the data and
makes a version of the registered model. https://openlineage.io/spec/2-0-2/OpenLineage.json
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from mlflow.entities import Run as MlflowRun
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from openlineage.client import OpenLineageClient
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import dataset_version_dataset, parent_run, tags_run
from requests import RequestException

from components.errors import EmbedlineError
from components.registry.config import named
from components.registry.history import iso
from components.registry.tracking import EXPERIMENT, Tracking, runs

JOB = "retrain"
ENDED = {"FINISHED": "COMPLETE", "FAILED": "FAIL", "KILLED": "ABORT"}
TAGS = ("git_commit", "git_dirty", "reason", "dvc_lock_sha256")
SOURCE = "EMBEDLINE"
Versions = Mapping[str, str]
"""The versions of data sets, by their names."""


def events(tracking: Tracking, round_id: str, locked: Mapping[str, Any]) -> list[RunEvent]:
    """Returns the start and the end of a round that has ended, and those of its stages between; `locked` are the stages
    of the `dvc.lock` that it left."""
    round_ = tracking.client.get_run(round_id)
    tags = round_.data.tags
    data = {"data": tags["data"]}
    version = {tracking.model: tags["version"]} if "version" in tags else {}
    began, ended = _events(tracking, round_, JOB, data, version)
    made = {out["path"] for stage in locked.values() for out in stage.get("outs", ()) if "md5" in out}
    stages = list[RunEvent]()
    wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{round_id}'"
    for run in sorted(runs(tracking, wanted), key=lambda run: int(run.info.start_time)):
        if "reused_from" not in run.data.tags:
            name = run.data.tags["stage"]
            stage = locked.get(name, {}) if run.info.status == "FINISHED" else {}
            taken = _versions(stage.get("deps", ()), {"data"} | made)
            stages += _events(tracking, run, f"{JOB}.{name}", taken, _versions(stage.get("outs", ()), made), round_id)
    return [began, *stages, ended]


def send(url: str, sent: Sequence[RunEvent]) -> None:
    """Posts events to a collector, with the key in `OPENLINEAGE_API_KEY` if there is one. Raises `EmbedlineError`."""
    transport: dict[str, Any] = {"type": "http", "url": url}
    if key := os.environ.get("OPENLINEAGE_API_KEY"):
        transport["auth"] = {"type": "api_key", "apiKey": key}
    try:
        client = OpenLineageClient(config={"transport": transport})
        for event in sent:
            client.emit(event)
    except (RequestException, ValueError) as error:
        raise EmbedlineError(f"registry.openlineage: {url} does not take events: {error}", "Check it.") from error


def _events(
    tracking: Tracking, run: MlflowRun, job: str, taken: Versions, made: Versions, parent: str | None = None
) -> Iterator[RunEvent]:
    """Yields the start of a run, and its end with the data sets that it took and made."""
    namespace = named(EXPERIMENT, tracking.environment)
    kept = [tags_run.TagsRunFacetFields(name, run.data.tags[name], SOURCE) for name in TAGS if run.data.tags.get(name)]
    facets: dict[str, Any] = {"tags": tags_run.TagsRunFacet(kept)}
    if parent:
        facets["parent"] = parent_run.ParentRunFacet(parent_run.Run(_identity(parent)), parent_run.Job(namespace, JOB))
    known: dict[str, Any] = {"run": Run(_identity(run.info.run_id), facets), "job": Job(namespace, job)}
    yield RunEvent(eventTime=iso(run.info.start_time), eventType=RunState.START, **known)
    yield RunEvent(
        eventTime=iso(run.info.end_time),
        eventType=RunState(ENDED[run.info.status]),
        inputs=[InputDataset(namespace, name, facets=_version(value)) for name, value in taken.items()],
        outputs=[OutputDataset(namespace, name, facets=_version(value)) for name, value in made.items()],
        **known,
    )


def _version(value: str) -> dict[str, Any]:
    return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(value)}


def _versions(entries: Sequence[Mapping[str, Any]], wanted: Collection[str]) -> dict[str, str]:
    return {entry["path"]: str(entry["md5"]) for entry in entries if entry["path"] in wanted}


def _identity(run_id: str) -> str:
    """Returns MLflow's 32 hexadecimal digits as the UUID that they are."""
    return str(UUID(run_id))

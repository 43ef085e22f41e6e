"""One MLflow run a round with a child a stage: parameters, metrics over time, the data set.

Everything goes through a client and a run id, never through MLflow's active run, which belongs to one thread only.
"""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID

from components import config as configuration
from components.errors import EmbedlineError, UsageError
from components.files import write_text
from components.registry.config import DEV, Registry, named
from components.registry.dataset_source import DvcDatasetSource
from components.sections import Model
from components.storage import Storage
from components.workspace import STATE

EXPERIMENT = "embedline"
MODEL = "embedline-embedder"
LEDGER = "ledger.jsonl"
RUNS = Path("artifacts", "runs")
RUNS_A_PAGE = 1000
METRICS_A_BATCH = 1000
PARAMETERS_A_BATCH = 100
MAX_PARAMETER_LENGTH = 6000
SECRET = re.compile(r"passw|secret|credential|api_?key|(^|[._])token$", re.IGNORECASE)


@dataclass(frozen=True)
class Tracking:
    """The tracking server of a workspace, its environment, and the experiment that its runs belong to."""

    client: MlflowClient
    uri: str
    experiment_id: str
    root: Path
    environment: str = DEV

    @property
    def model(self) -> str:
        """The name of the environment's registered model."""
        return named(MODEL, self.environment)

    @property
    def ledger(self) -> Path:
        return ledger_path(self.root, self.environment)


@dataclass(frozen=True)
class Run:
    """An MLflow run that is being written."""

    tracking: Tracking
    run_id: str

    def log_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Logs nested settings as `section.key`; what looks like a secret is left out."""
        flat = {name: value for name, value in _flatten(parameters) if not SECRET.search(name)}
        logged = [Param(name, str(value)[:MAX_PARAMETER_LENGTH]) for name, value in flat.items()]
        for start in range(0, len(logged), PARAMETERS_A_BATCH):
            self.tracking.client.log_batch(self.run_id, params=logged[start : start + PARAMETERS_A_BATCH])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        self.log_history([(step, metrics)])

    def log_history(self, history: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Logs metrics over time, many at once: `(step, metrics)` pairs."""
        now = int(time.time() * 1000)
        logged = [
            Metric(metric_name(name), float(value), now, step) for step, row in history for name, value in row.items()
        ]
        for start in range(0, len(logged), METRICS_A_BATCH):
            self.tracking.client.log_batch(self.run_id, metrics=logged[start : start + METRICS_A_BATCH])

    def log_dataset(self, data_hash: str, context: str, path: str = "data", commit: str | None = None) -> None:
        """Records the data set as an input of the run, its DVC hash as its digest."""
        dataset = MetaDataset(DvcDatasetSource(path, data_hash, commit), path, data_hash)  # type: ignore[abstract]
        entry = DatasetInput(dataset._to_mlflow_entity(), [InputTag(MLFLOW_DATASET_CONTEXT, context)])
        self.tracking.client.log_inputs(self.run_id, [entry])

    def log_file(self, path: Path) -> None:
        self.tracking.client.log_artifact(self.run_id, str(path))

    def tag(self, tags: Mapping[str, str]) -> None:
        self.tracking.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def tracking_uri(root: Path) -> str:
    """Returns `MLFLOW_TRACKING_URI`, or `storage.tracking_uri`, or the SQLite database of the workspace."""
    own = f"sqlite:///{root.resolve() / STATE / 'mlflow.db'}"
    return os.environ.get("MLFLOW_TRACKING_URI") or storage(root).tracking_uri or own


def storage(root: Path) -> Storage:
    return _section(root, Storage)


def registry(root: Path) -> Registry:
    return _section(root, Registry)


def _section(root: Path, kind: type[Model]) -> Model:
    """Returns the section of params.yaml, or what it is by default where there is no such file."""
    path = root / configuration.PARAMETERS
    return configuration.read_section(path, kind) if path.is_file() else kind()


def ledger_path(root: Path, environment: str) -> Path:
    return root / STATE / (LEDGER if environment == DEV else f"{environment}-{LEDGER}")


def prepare(root: Path) -> Tracking:
    """Returns the tracking of the workspace; creates database and experiment once, one process at a time.

    Artifacts lie where `storage.artifacts` says; without it in the workspace, unless a server keeps them. Raises
    `EmbedlineError` if the server does not answer, `UsageError` if the experiment's artifacts lie elsewhere, or if the
    workspace has been another environment: its servers hold versions by numbers that mean others here.
    """
    uri, wanted, environment = tracking_uri(root), storage(root).artifacts, registry(root).environment
    _require_one_environment(root, environment)
    name = named(EXPERIMENT, environment)
    state = root.resolve() / STATE
    folder = wanted or (None if uri.startswith("http") else (state / "mlflow-artifacts").as_uri())
    try:
        with FileLock(state / "mlflow.lock"):
            client = MlflowClient(uri)
            experiment = client.get_experiment_by_name(name)
            identity = experiment.experiment_id if experiment else client.create_experiment(name, folder)
    except MlflowException as error:
        remedy = "Check MLFLOW_TRACKING_URI and storage.tracking_uri; without both it is this workspace's database."
        raise EmbedlineError(f"MLflow does not answer: {error.message}", remedy) from error
    if experiment and wanted and experiment.artifact_location != wanted:
        raise UsageError(
            f"storage.artifacts: {wanted}, but this MLflow keeps them in {experiment.artifact_location}",
            "They cannot move: name that place, or another database.",
        )
    return Tracking(client, uri, identity, root.resolve(), environment)


def other(tracking: Tracking, environment: str) -> Tracking:
    """Returns another environment of the same MLflow, to read from. Raises `UsageError` if there is none."""
    experiment = tracking.client.get_experiment_by_name(named(EXPERIMENT, environment))
    if environment == tracking.environment or experiment is None:
        raise UsageError(
            f"{environment} is no other environment of {tracking.uri}; this workspace is {tracking.environment}",
            "Environments share one MLflow (storage.tracking_uri); registry.environment says which one a workspace is.",
        )
    return replace(tracking, environment=environment, experiment_id=experiment.experiment_id)


def find(root: Path) -> Tracking | None:
    """Returns the tracking of the workspace, or None before its first round; creates nothing."""
    database = root.resolve() / STATE / "mlflow.db"
    if tracking_uri(root) == f"sqlite:///{database}" and not database.is_file():
        return None
    return prepare(root)


def start_round(tracking: Tracking, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
    """Opens the parent run of a round. Runs that a killed round left open in this workspace are closed as killed.

    The caller holds the lock of the workspace, therefore no open run of it can be alive.
    """
    left_open = tracking.client.search_runs(
        [tracking.experiment_id], f"attributes.status = 'RUNNING' and tags.workspace = '{_workspace(tracking)}'"
    )
    for run in left_open:
        tracking.client.set_terminated(run.info.run_id, "KILLED")
    round_ = _create(tracking, "round", tags)
    round_.log_parameters(parameters)
    return round_


def copy_round(source: Tracking, run_id: str, to: Tracking, tags: Mapping[str, str]) -> Run:
    """Opens a round with the parameters, metrics, tags and files of one of another environment; `tags` replace its own.

    The caller holds the lock of the workspace, as for `start_round`.
    """
    data = source.client.get_run(run_id).data
    known = {name: value for name, value in data.tags.items() if not name.startswith("mlflow.")}
    round_ = start_round(to, data.params, {**known, **tags, "workspace": _workspace(to)})
    round_.log_metrics(data.metrics)
    with tempfile.TemporaryDirectory() as folder:
        source.client.download_artifacts(run_id, "", folder)
        to.client.log_artifacts(round_.run_id, folder)
    return round_


def end_round(round_: Run, *, succeeded: bool) -> None:
    round_.tracking.client.set_terminated(round_.run_id, "FINISHED" if succeeded else "FAILED")


@contextmanager
def stage_run(round_: Run, stage: str) -> Iterator[Run]:
    """Opens the child run that a stage process logs into by `MLFLOW_RUN_ID`.

    Where the outputs turn out to come from an earlier run, this idle one is tagged `reused_from`.
    """
    run = _create(round_.tracking, stage, {"stage": stage, MLFLOW_PARENT_RUN_ID: round_.run_id})
    with _ending(run):
        yield run
        producer = producing_run(round_.tracking.root, stage)
        if producer not in (None, run.run_id):
            run.tag({"reused_from": str(producer)})


@contextmanager
def log_stage(stage: str, root: Path | None = None) -> Iterator[Run]:
    """Gives a stage process its run: the one in `MLFLOW_RUN_ID`, else (a bare `dvc repro`) one of its own.

    When the stage has succeeded, `artifacts/runs/STAGE.json` names the run that made its outputs.
    """
    tracking = prepare(root or Path.cwd())
    given = os.environ.get("MLFLOW_RUN_ID")
    run = Run(tracking, given) if given else _create(tracking, stage, {"stage": stage, "started_by": "dvc repro"})
    began, used = time.monotonic(), _cpu_seconds()
    with _ending(run, finish=not given):
        yield run
        run.log_metrics({"stage_seconds": time.monotonic() - began, "cpu_seconds": _cpu_seconds() - used})
        _write_producing_run(tracking.root, stage, run.run_id)


def producing_run(root: Path, stage: str) -> str | None:
    """Returns the run that made the present outputs of a stage, or `None` before it has run."""
    path = root / RUNS / f"{stage}.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["run_id"]) if path.is_file() else None


def producer_metrics(tracking: Tracking, stage: str) -> dict[str, float]:
    """Returns the last metrics of the run that made the present outputs of a stage, none before it has run: among them
    `stage_seconds` and `cpu_seconds` of the process that finished it."""
    run_id = producing_run(tracking.root, stage)
    return dict(tracking.client.get_run(run_id).data.metrics) if run_id else {}


def runs(tracking: Tracking, wanted: str = "", newest_first: bool = False) -> Iterator[MlflowRun]:
    """Yields the runs of the experiment that MLflow's filter `wanted` selects."""
    order = ["attributes.start_time DESC"] if newest_first else None
    token = None
    while True:
        page = tracking.client.search_runs(
            [tracking.experiment_id], wanted, max_results=RUNS_A_PAGE, order_by=order, page_token=token
        )
        yield from page
        if not (token := page.token):
            return


def stage_seconds(tracking: Tracking) -> dict[str, float]:
    """Returns how long each stage took when it last ran in this workspace; one that found all up to date is none."""
    seconds = dict[str, float]()
    wanted = f"attributes.status = 'FINISHED' and tags.workspace = '{_workspace(tracking)}'"
    for run in runs(tracking, wanted, newest_first=True):
        tags = run.data.tags
        if "stage" in tags and "reused_from" not in tags:
            seconds.setdefault(tags["stage"], (run.info.end_time - run.info.start_time) / 1000)
    return seconds


def metric_name(name: str) -> str:
    """Returns the name with what MLflow forbids replaced: `hit@1` becomes `hit_at_1`."""
    return re.sub(r"[^\w\-. /]", "_", name.replace("@", "_at_"))


def _require_one_environment(root: Path, environment: str) -> None:
    own = ledger_path(root, environment)
    if others := sorted(path for path in (root / STATE).glob(f"*{LEDGER}") if path.name != own.name):
        raise UsageError(
            f"registry.environment: {environment}, but this workspace is another one's: {others[0]}",
            "Give each environment a workspace of its own.",
        )


def _create(tracking: Tracking, name: str, tags: Mapping[str, str]) -> Run:
    all_tags = {"workspace": _workspace(tracking), **tags}
    created = tracking.client.create_run(tracking.experiment_id, run_name=name, tags=all_tags)
    return Run(tracking, created.info.run_id)


def _workspace(tracking: Tracking) -> str:
    return f"{socket.gethostname()}:{tracking.root}".replace("'", "_")


@contextmanager
def _ending(run: Run, *, finish: bool = True) -> Iterator[None]:
    """Closes the run as failed on any error, interruption included, and as finished if `finish`."""
    try:
        yield
    except BaseException:
        run.tracking.client.set_terminated(run.run_id, "FAILED")
        raise
    if finish:
        run.tracking.client.set_terminated(run.run_id, "FINISHED")


def _cpu_seconds() -> float:
    """Returns how long processors have worked for this process and for those that it has started and seen end."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _write_producing_run(root: Path, stage: str, run_id: str) -> None:
    write_text(root / RUNS / f"{stage}.json", json.dumps({"run_id": run_id}) + "\n")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value

"""What makes flows run by themselves: a Prefect server and a worker, owned and kept alive, and a proof that they work.

`prefect.yaml` says what runs when. The server's database is the workspace's own.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import httpx
import psutil
from prefect.automations import Automation, EventTrigger, Posture, RunDeployment
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import DeploymentSchedule, FlowRun, StateType, WorkerStatus
from prefect.client.schemas.schedules import SCHEDULE_TYPES, IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_HOME,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS,
    temporary_settings,
)
from prefect.states import Scheduled

from components.errors import EmbedlineError, UsageError
from components.workspace import STATE
from flows.approve import APPROVAL
from flows.monitor import RETRAIN
from serving.supervisor import state
from serving.supervisor.child import Child, ChildProcess
from serving.supervisor.decision import Policy
from serving.supervisor.loop import Watch, Watched
from serving.supervisor.metrics import Metrics
from serving.supervisor.rotation import rotate
from serving.supervisor.state import State
from serving.supervisor.supervise import Stop, begin, end

HOME = STATE / "schedule"
DEPLOYMENTS = Path("prefect.yaml")
OWN_LOG = "schedule.log"
HOST, PORT = "127.0.0.1", 4200
POOL = "embedline"
AUTOMATIONS = (
    ("embedline: retrain when a policy says so", RETRAIN, "retrain/scheduled", "reason"),
    ("embedline: ask a person when a candidate has passed both gates", APPROVAL, "approve/form", "version"),
)
"""What each is called, the event that starts it, the deployment that runs, and what of the event it is given."""
STARTUP_SECONDS, DEPLOY_SECONDS, PROOF_SECONDS = 120, 180, 180
PROBE_SECONDS = 10.0
RESTARTS = Policy(max_restarts=5, window_seconds=600)
OFTEN = timedelta(seconds=20)
SCHEDULER_SECONDS = 10
"""How often the server looks what a schedule asks for; as it is, once a minute."""
REQUEST_SECONDS = 10
PENDING = timedelta(seconds=60)
MOST_STARTS = 3
"""How often a run is started that crashes each time."""
LOG = logging.getLogger("serving.schedule")


@dataclass(frozen=True)
class Deployed:
    """A deployment: when it runs next, and how its last run ended; times in UTC."""

    name: str
    schedules: Sequence[str]
    next_run: datetime | None
    last_run: datetime | None
    last_state: str | None


def run(port: int, ready: Callable[[State], None]) -> NoReturn:
    """Keeps Prefect's server and worker of this workspace running until a signal stops it.

    Calls `ready` once a schedule has provably fired. Raises `UsageError` if there is no prefect.yaml or it runs
    already, `EmbedlineError` if something does not start, is given up, or no scheduled run ends.
    """
    if not DEPLOYMENTS.is_file():
        raise UsageError(f"{DEPLOYMENTS} is missing", "Run it in a checkout of Embedline; it says what runs when.")
    home = HOME.resolve()
    since = datetime.now(UTC)
    began = begin(home)
    with ExitStack() as stack:
        stop = Stop()
        stack.callback(end, home, began)
        port = port or free_port()
        stack.enter_context(server_at(home, port))
        current = replace(began, url=f"http://{HOST}:{port}")
        current.write(home)
        server = ChildProcess(Child("prefect-server", server_command(port), probe_server), home, STARTUP_SECONDS)
        worker = ChildProcess(Child("prefect-worker", worker_command(), probe_worker), home, STARTUP_SECONDS)
        stack.callback(server.stop)
        server.start()
        prepare()
        stack.callback(worker.stop)
        worker.start()
        prove()

        def changed(watched: Sequence[Watched]) -> None:
            known(current, watched).write(home)
            restart_lost_runs(since)

        def looked() -> None:
            rotate(home / OWN_LOG)
            stop.leave_if_asked()

        watch = Watch(home, [server, worker], RESTARTS, PROBE_SECONDS, Metrics(), changed, looked)
        changed(watch.watched)
        ready(known(current, watch.watched))
        watch.run()


def status() -> tuple[State | None, list[Deployed]]:
    """Returns the state of the running supervisor, None if it does not run, and the deployments of its server."""
    found = state.find(HOME)
    if found is None or not found.ready:
        return found, []
    port = int(str(found.url).rpartition(":")[2])
    with server_at(HOME.resolve(), port), get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        return found, [
            described(client, f"{flows[deployment.flow_id]}/{deployment.name}", deployment.id, deployment.schedules)
            for deployment in client.read_deployments()
        ]


def described(client: SyncPrefectClient, name: str, identity: Any, schedules: Sequence[DeploymentSchedule]) -> Deployed:
    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[identity]))
    coming = client.read_flow_runs(
        deployment_filter=of_it, flow_run_filter=in_state(StateType.SCHEDULED), limit=1,
        sort=FlowRunSort.EXPECTED_START_TIME_ASC,
    )  # fmt: skip
    done = client.read_flow_runs(
        deployment_filter=of_it,
        flow_run_filter=in_state(StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.RUNNING),
        limit=1, sort=FlowRunSort.START_TIME_DESC,
    )  # fmt: skip
    words = [str(getattr(each.schedule, "cron", each.schedule)) for each in schedules if each.active]
    return Deployed(
        name,
        words,
        coming[0].expected_start_time if coming else None,
        done[0].start_time if done else None,
        done[0].state_name if done else None,
    )


@contextmanager
def server_at(home: Path, port: int) -> Iterator[None]:
    """Inside, Prefect uses the workspace's own server: in this process, which has read its settings already, and in
    those that it starts."""
    wanted: dict[Any, str | int] = {
        PREFECT_HOME: str(home / "prefect"),
        PREFECT_API_URL: f"http://{HOST}:{port}/api",
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
        PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS: SCHEDULER_SECONDS,
    }
    before = dict(os.environ)
    os.environ.update({setting.name: str(value) for setting, value in wanted.items()})
    try:
        with temporary_settings(updates=wanted):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def server_command(port: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port))


def worker_command() -> tuple[str, ...]:
    return (sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", POOL)


def prepare() -> None:
    """Writes pool, deployments and automation to the running server. Raises `EmbedlineError` with Prefect's words."""
    prefect("work-pool", "create", POOL, "--type", "process", "--overwrite")
    prefect("--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS))
    automate()


def automate() -> None:
    """Makes events start deployments, as `AUTOMATIONS` says."""
    for name, event, deployment, parameter in AUTOMATIONS:
        with get_client(sync_client=True) as client:
            started = client.read_deployment_by_name(deployment)
            for old in client.read_automations_by_name(name):
                client.delete_automation(old.id)
        given = {parameter: {"__prefect_kind": "jinja", "template": f"{{{{ event.payload.{parameter} }}}}"}}
        Automation(
            name=name,
            trigger=EventTrigger(expect={event}, posture=Posture.Reactive, threshold=1, within=timedelta(0)),
            actions=[RunDeployment(source="selected", deployment_id=started.id, parameters=given, job_variables=None)],
        ).create()


def prove() -> None:
    """Waits until a run that a schedule has made has ended well: there are versions whose server looks healthy and
    whose schedules never fire. Raises `EmbedlineError` if none does within `PROOF_SECONDS`."""
    began = datetime.now(UTC)
    with get_client(sync_client=True) as client:
        proof = client.read_deployment_by_name("heartbeat/proof")
        for left in client.read_deployment_schedules(proof.id):
            client.delete_deployment_schedule(proof.id, left.id)
        often: list[tuple[SCHEDULE_TYPES, bool]] = [(IntervalSchedule(interval=OFTEN), True)]
        (schedule,) = client.create_deployment_schedules(proof.id, often)
        try:
            deadline = time.monotonic() + PROOF_SECONDS
            while time.monotonic() < deadline:
                runs = client.read_flow_runs(
                    deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[proof.id])),
                    flow_run_filter=in_state(StateType.COMPLETED),
                )
                if any(run.auto_scheduled and run.start_time and run.start_time > began for run in runs):
                    return
                time.sleep(0.5)
        finally:
            client.delete_deployment_schedule(proof.id, schedule.id)
    raise EmbedlineError(
        f"no scheduled run has ended within {PROOF_SECONDS} s: Prefect's server is up, and its schedules do not fire",
        "Install the versions of requirements.lock (SQLAlchemy 2.1 does this to Prefect 3.8); see "
        f"{HOME / 'prefect-server.log'} and {HOME / 'prefect-worker.log'}.",
    )


def restart_lost_runs(since: datetime) -> None:
    """Schedules anew, which frees the place that it holds, what was running in a process that has died, what such a
    process could still report as crashed after `since`, and what a worker that has died was about to start."""
    unfinished = in_state(StateType.RUNNING, StateType.PENDING, StateType.CRASHED)
    try:
        with get_client(sync_client=True) as client:
            for run_ in client.read_flow_runs(flow_run_filter=unfinished):
                if run_.deployment_id and is_lost(run_, since):
                    LOG.warning("flow run %s has lost its process; it is started again", run_.name)
                    client.set_flow_run_state(run_.id, Scheduled(message="its process has died"), force=True)
    except (httpx.HTTPError, ObjectNotFound) as error:  # the server is being restarted; the next look is soon
        LOG.info("lost runs could not be looked up: %s", error)


def is_lost(run_: FlowRun, since: datetime) -> bool:
    """Returns whether a run has no process on this machine any more and was not to end; one that has crashed
    `MOST_STARTS` times is left alone."""
    state_ = run_.state
    if state_ is None or (host_of(run_) not in ("", socket.gethostname())):
        return False
    if state_.type is StateType.CRASHED:
        return state_.timestamp > since and run_.run_count < MOST_STARTS
    if state_.type is StateType.PENDING and datetime.now(UTC) - state_.timestamp < PENDING:
        return False  # the worker has not said yet which process it is
    return not has_process(run_)


def host_of(run_: FlowRun) -> str:
    return str(run_.infrastructure_pid or "").rpartition(":")[0]


def has_process(run_: FlowRun) -> bool:
    """Returns whether the process that a run names lives; one that names none counts as living unless it is pending."""
    if not run_.infrastructure_pid:
        return run_.state_type is not StateType.PENDING
    return psutil.pid_exists(int(str(run_.infrastructure_pid).rpartition(":")[2]))


def probe_server() -> None:
    """Raises `EmbedlineError` unless the server answers from its database."""
    try:
        httpx.post(f"{api()}/deployments/count", json={}, timeout=REQUEST_SECONDS).raise_for_status()
    except httpx.HTTPError as error:
        raise EmbedlineError(f"Prefect's server does not answer: {error}", "see its log") from error


def probe_worker() -> None:
    """Raises `EmbedlineError` unless the server has heard of the worker lately; no error if the server is down, which
    is another process's fault."""
    try:
        with get_client(sync_client=True) as client:
            workers = client.read_workers_for_work_pool(POOL)
    except httpx.HTTPError:
        return
    if not any(worker.status is WorkerStatus.ONLINE for worker in workers):
        raise EmbedlineError("Prefect's worker does not report to the server", "see its log")


def prefect(*arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEPLOY_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise EmbedlineError(f"`prefect {' '.join(arguments)}` takes longer than {DEPLOY_SECONDS} s", "") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-500:]
        raise EmbedlineError(f"`prefect {' '.join(arguments)}`: {said}", f"Correct {DEPLOYMENTS}, then start it again.")


def in_state(*types: StateType) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))


def api() -> str:
    return os.environ["PREFECT_API_URL"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def known(current: State, watched: Sequence[Watched]) -> State:
    """Returns the state with what is known now."""
    return replace(
        current,
        ready=True,
        healthy={each.process.name: each.unhealthy_since is None for each in watched},
        restarts=sum(len(each.heals) for each in watched),
        checked=datetime.now(UTC).isoformat("T", "seconds"),
    )

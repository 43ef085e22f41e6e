"""Starts Triton and what stands beside it, watches them, and ends them with itself."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from components.errors import EmbedlineError, UsageError
from components.export.config import Serving
from components.registry import tracking
from serving import events
from serving.supervisor import state
from serving.supervisor.child import Child, ChildProcess
from serving.supervisor.decision import Policy
from serving.supervisor.looks import Looks
from serving.supervisor.loop import Watch, Watched
from serving.supervisor.metrics import Metrics
from serving.supervisor.rotation import rotate
from serving.supervisor.sd_notify import notify
from serving.supervisor.state import State
from serving.supervisor.triton_process import TritonProcess
from serving.triton import TritonServer, process_birth

LOG = logging.getLogger(__name__)
OWN_LOG = "serve.log"
"""Where a detached supervisor writes."""
STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
ORPHAN_SECONDS = 15


def supervise(
    home: Path, config: Serving, children: Sequence[Child], ready: Callable[[TritonServer, State], None]
) -> NoReturn:
    """Serves the champion until a signal stops it; calls `ready` once all answers.

    SIGTERM and SIGHUP leave by `SystemExit(0)`, Ctrl-C by `KeyboardInterrupt`, and all that was started has ended then.
    Raises `UsageError` if a supervisor runs in `home` already, `EmbedlineError` if something does not start or is
    given up.
    """
    home = home.resolve()
    began = begin(home)
    with ExitStack() as stack:
        stop = Stop()
        stack.callback(end, home, began)
        metrics = Metrics()
        metrics.registry.register(Looks(home))
        current = replace(began, metrics_url=metrics.serve(config.supervisor_metrics_port))
        current.write(home)
        triton = TritonProcess(home, config, tracking.prepare(Path()))
        stack.callback(triton.stop)
        triton.start()
        beside = [ChildProcess(child, home, config.startup_seconds) for child in children]
        for process in beside:
            stack.callback(process.stop)
            process.start()

        def changed(watched: Sequence[Watched]) -> None:
            try:
                known(current, triton, watched).write(home)
            except (EmbedlineError, OSError) as error:  # a full disk keeps nobody from being served
                LOG.error("the state could not be written: %s", error)

        def looked() -> None:
            rotate(home / OWN_LOG)
            notify("WATCHDOG=1")
            stop.leave_if_asked()

        policy = Policy(config.max_restarts, config.restart_window_seconds)
        watch = Watch(home, [triton, *beside], policy, config.probe_seconds, metrics, changed, looked)
        changed(watch.watched)
        events.record(home, "started", pid=began.pid, version=triton.version)
        notify("READY=1", f"STATUS=version {triton.version} answers on {triton.running.url}")
        ready(triton.running, known(current, triton, watch.watched))
        watch.run()


def begin(home: Path) -> State:
    """Writes that this process is the supervisor of `home`. Raises `UsageError` if another one is."""
    left = state.read(home)
    if left and left.is_running:
        raise UsageError(
            f"`embedline serve` runs here already: process {left.pid}", "Stop it with `embedline serve stop`."
        )
    deadline = time.monotonic() + ORPHAN_SECONDS
    while left and TritonServer.find(home) and time.monotonic() < deadline:
        time.sleep(0.1)  # its supervisor was killed: it is about to end too
    now = datetime.now(UTC).isoformat("T", "seconds")
    began = State(os.getpid(), process_birth(os.getpid()) or 0, now)
    home.mkdir(parents=True, exist_ok=True)
    began.write(home)
    return began


class Stop:
    """Handles the signals that end the command: leaves it by an exception, once, so that nothing disturbs the ending of
    what it has started. Where an exception may have been lost, in a destructor perhaps, `leave_if_asked` leaves."""

    def __init__(self) -> None:
        self.sign: int | None = None
        for sign in STOPPING:
            signal.signal(sign, self)

    def __call__(self, sign: int, _: FrameType | None) -> None:
        for each in STOPPING:
            signal.signal(each, signal.SIG_IGN)
        self.sign = sign
        notify("STOPPING=1")
        self.leave_if_asked()

    def leave_if_asked(self) -> None:
        if self.sign == signal.SIGINT:
            raise KeyboardInterrupt
        if self.sign is not None:
            sys.exit(0)


def end(home: Path, began: State) -> None:
    events.record(home, "ended", pid=began.pid)
    (home / state.STATE_FILE).unlink(missing_ok=True)


def known(current: State, triton: TritonProcess, watched: Sequence[Watched]) -> State:
    """Returns the state with what is known now."""
    heals = [heal.how for each in watched for heal in each.heals]
    server = triton.running
    return replace(
        current,
        ready=True,
        url=server.url,
        grpc_port=server.grpc_port,
        version=triton.version,
        healthy={each.process.name: each.unhealthy_since is None for each in watched},
        reloads=heals.count("reload"),
        restarts=heals.count("restart"),
        checked=datetime.now(UTC).isoformat("T", "seconds"),
    )

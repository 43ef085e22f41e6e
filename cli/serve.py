"""`embedline serve`: Triton, kept answering until it is stopped."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.options import Machine
from cli.screen import say, screen, spell
from components.errors import UsageError
from components.workspace import STATE

if TYPE_CHECKING:
    from serving.supervisor.state import State
    from serving.triton import TritonServer


class Action(StrEnum):
    START = "start"
    STATUS = "status"
    STOP = "stop"


def serve(
    action: Annotated[Action, typer.Argument(help="start (the default), status, or stop.")] = Action.START,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start it in the background, and return once it answers.")
    ] = False,
    gateway: Annotated[bool, typer.Option("--gateway/--no-gateway", help="Start the HTTP gateway beside it.")] = True,
    container: Annotated[
        bool, typer.Option("--print-container", help="Print the docker command that serves the champion, and end.")
    ] = False,
    layout: Annotated[
        Literal["onnxruntime", "tensorrt"] | None,
        typer.Option(help="With --print-container: which of Triton's backends computes the graphs, on a GPU."),
    ] = None,
    machine: Machine = False,
) -> None:
    """Serve the champion and the previous version on Triton, healed when they fail, until Ctrl-C or SIGTERM.

    Example: `embedline serve --detach`, then `embedline serve status` and `embedline serve stop`
    """
    if container or layout:
        show_container(container, layout)
        return
    match action:
        case Action.STATUS:
            show_status(machine)
        case Action.STOP:
            stop(machine)
        case Action.START if detach:
            from serving.supervisor.detach import detach as start

            show(start(STATE, ["serve", *([] if gateway else ["--no-gateway"])]), machine)
        case Action.START:
            start_here(gateway)


def show_container(container: bool, layout: Literal["onnxruntime", "tensorrt"] | None) -> None:
    from components import config as configuration
    from components.export.config import Serving
    from serving.container import print_container

    if not container:
        raise UsageError("--layout is for --print-container", "Name both.")
    print(print_container(STATE, configuration.read_section(Path(configuration.PARAMETERS), Serving), layout))


def start_here(with_gateway: bool) -> None:
    from components import config as configuration
    from components.export.config import Serving
    from serving.supervisor.gateway import gateway
    from serving.supervisor.supervise import supervise

    log = logging.getLogger("serving")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    supervise(STATE, settings, [gateway(STATE)] if with_gateway else [], announce)


def announce(server: TritonServer, state: State) -> None:
    with suppress(OSError):  # the terminal was closed: SIGHUP is on its way
        screen.print(
            f"Triton answers on http://{server.url} with version {state.version}; metrics on {server.metrics_url} and "
            f"{state.metrics_url}. Ctrl-C stops it."
        )


def show_status(machine: bool) -> None:
    """Prints what the supervisor last knew; exit code 1 unless it runs and all answers."""
    from serving.supervisor import state

    found = state.find(STATE)
    if found:
        show(found, machine)
    elif machine:
        say({"running": False})
    else:
        screen.print("It does not run. `embedline serve --detach` starts it.")
    if not (found and found.ready and all((found.healthy or {}).values())):
        raise typer.Exit(1)


def stop(machine: bool) -> None:
    from serving.supervisor import state

    stopped = state.stop(STATE)
    if machine:
        say({"stopped": stopped.pid if stopped else None})
    else:
        screen.print(f"Stopped process {stopped.pid} and all that it had started." if stopped else "It did not run.")


def show(state: State, machine: bool) -> None:
    if machine:
        say({"running": True, **asdict(state)})
        return
    healthy = {name: "answers" if fine else "does not answer" for name, fine in (state.healthy or {}).items()}
    screen.print(spell({"process": state.pid, "since": state.started, "version": state.version, "on": state.url}))
    screen.print(spell({**healthy, "checked": state.checked, "reloads": state.reloads, "restarts": state.restarts}))
    screen.print(spell({"metrics": state.metrics_url}))

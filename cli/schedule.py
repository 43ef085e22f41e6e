"""`embedline schedule`: flows that run by themselves."""

from __future__ import annotations

import logging
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen

if TYPE_CHECKING:
    from serving.supervisor.state import State


class Action(StrEnum):
    UP = "up"
    STATUS = "status"
    DOWN = "down"


def schedule(
    action: Annotated[Action, typer.Argument(help="up, status or down.")],
    port: Annotated[int, typer.Option(help="Of Prefect's server and its pages; 0 takes any free one.")] = 4200,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, until Ctrl-C or SIGTERM.")] = False,
    machine: Machine = False,
) -> None:
    """Start, show or stop the flows of prefect.yaml on their schedules: ingest, retrain, monitor, golden queries.

    `up` returns when a scheduled run has provably ended.

    Example: `embedline schedule up`
    """
    from flows.schedule import HOME, OWN_LOG
    from serving.supervisor import state

    match action:
        case Action.UP if foreground:
            stay(port)
        case Action.UP:
            from serving.supervisor.detach import detach

            show(detach(HOME, ("schedule", "up", "--foreground", "--port", str(port)), OWN_LOG), machine)
        case Action.STATUS:
            show_status(machine)
        case Action.DOWN:
            stopped = state.stop(HOME)
            if machine:
                say({"stopped": stopped.pid if stopped else None})
            else:
                screen.print(f"Stopped process {stopped.pid} and all it had started." if stopped else "It did not run.")


def stay(port: int) -> None:
    from flows.schedule import run

    log = logging.getLogger("serving")
    log.addHandler(handler := logging.StreamHandler())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    run(port, lambda state: show(state, machine=False))


def show(state: State, machine: bool) -> None:
    if machine:
        say({"running": True, **asdict(state)})
    else:
        screen.print(f"A scheduled run has ended; Prefect's pages are on {state.url}. `embedline schedule status`")


def show_status(machine: bool) -> None:
    """Prints the deployments and their runs; exit code 1 unless server and worker answer."""
    from rich.table import Table

    from flows.schedule import status

    found, deployed = status()
    healthy = bool(found and found.ready and all((found.healthy or {}).values()))
    if machine:
        rows = [{key: str(value) if value else None for key, value in asdict(each).items()} for each in deployed]
        say({"running": found is not None, "healthy": healthy, "deployments": rows})
    elif found is None:
        screen.print("It does not run. `embedline schedule up` starts it.")
    else:
        table = Table("flow", "when", "next run", "last run", "it")
        for each in deployed:
            times = (f"{at:%Y-%m-%d %H:%M}" if at else "" for at in (each.next_run, each.last_run))
            table.add_row(each.name, ", ".join(each.schedules), *times, each.last_state or "")
        screen.print(table)
        screen.print(f"Prefect's pages: {found.url}; {'all answers' if healthy else 'something does not answer'}.")
    if not healthy:
        raise typer.Exit(1)

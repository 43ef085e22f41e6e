"""`embedline run`: the whole line."""

from __future__ import annotations

import time
from pathlib import Path

from cli.options import Git, Machine
from cli.screen import errors, say, screen, spell


def run(git: Git = False, machine: Machine = False) -> None:
    """Run the whole line: ingest, every stage that is not up to date, register, compare, deploy, promote.

    Example: `embedline run`
    """
    from components import config as configuration

    configuration.read(Path(configuration.PARAMETERS))  # a wrong parameter is reported now, not after Prefect's start
    from cli.progress import shown
    from components import lineage
    from flows.retrain import retrain

    if git:
        lineage.start_repository(Path(), errors.print)
    began = time.monotonic()
    with shown(errors):
        outcome = retrain()
    seconds = time.monotonic() - began
    if machine:
        say(
            {"version": outcome.version, "roles": dict(outcome.roles), "repeated": outcome.repeated, "seconds": seconds}
        )
        return
    show_scores()
    repeated = ", ".join(outcome.repeated) or "none: everything was up to date"
    screen.print(
        f"Version [bold]{outcome.version}[/bold]; {spell(outcome.roles)}. Stages run: {repeated}. {seconds:.0f} s."
    )
    if outcome.roles["challenger"] == outcome.version:
        command = f"embedline approve {outcome.version} --by NAME --reason TEXT"
        screen.print(f"It has passed both gates and waits: [bold]{command}[/bold]")
    screen.print('Next: [bold]embedline search "a sad cat"[/bold], or `make serve` to keep a server running.')


def show_scores() -> None:
    """Prints the table of all models that the round has scored."""
    from components.evaluation import table
    from components.scores import Scores
    from components.workspace import SCORES

    screen.print(table({file.stem: Scores.read(file) for file in sorted(SCORES.glob("*.json"), reverse=True)}))

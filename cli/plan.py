"""`embedline plan`: what a round would do, before it does it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cli.options import Machine
from cli.screen import say, screen

if TYPE_CHECKING:
    from components.lineage import Reason
    from components.stages.plan import Plan

MOST_REASONS = 5


def plan(machine: Machine = False) -> None:
    """Say which stages `embedline run` would run and why, what the gates would compare, what could go; nothing changes.

    Example: `embedline plan`
    """
    from cli import prune
    from components import config as configuration
    from components.stages.plan import plan as planned
    from components.stages.prune import look

    config = configuration.read(Path(configuration.PARAMETERS))
    found, pruning = planned(Path(), config), look(Path(), config.storage, prune.served())
    if machine:
        say({**asdict(found), "prune": prune.facts(pruning)})
        return
    if found.unreviewed:
        screen.print(f"The round would be refused: data/ differs from data.dvc: {dict(found.unreviewed)}.")
    for reason in found.ingest:
        screen.print(Text(f"The data set would be built: {words(reason)}."))
    if found.stages:
        screen.print(table(found))
        screen.print(expected(found))
    else:
        screen.print("Every stage is up to date.")
    screen.print(gates(found))
    screen.print(f"`embedline prune` would remove {prune.total(pruning)}.")


def table(found: Plan) -> Table:
    """Returns a row a stage, for a person."""
    listing = Table("stage", "runs", "because", "took")
    for stage in found.stages:
        shown = [words(reason) for reason in stage.reasons[:MOST_REASONS]]
        shown += [f"{len(stage.reasons) - MOST_REASONS} more, see --json"] if len(stage.reasons) > MOST_REASONS else []
        seconds = found.seconds.get(stage.stage)
        took = "never ran here" if seconds is None else f"{seconds:.0f} s"
        listing.add_row(
            *map(Text, (stage.stage, "yes" if stage.certain else "if that differs", "\n".join(shown), took))
        )
    return listing


def words(reason: Reason) -> str:
    if reason.change == "parameter":
        return f"{reason.what}: {reason.old} is now {reason.new}"
    return f"{reason.what} {reason.change}"


def expected(found: Plan) -> str:
    """Returns how long the stages would take together, of those that have run here."""
    known = [found.seconds[stage.stage] for stage in found.stages if stage.stage in found.seconds]
    unknown = len(found.stages) - len(known)
    more = f", and {unknown} that never ran here" if unknown else ""
    return f"Expected: {sum(known):.0f} s for {len(known)} stages{more}; less where DVC has the outputs in its cache."


def gates(found: Plan) -> str:
    limits = found.gates
    floors = ", ".join(f"{name} {floor}" for name, floor in limits["floors"].items()) or "none"
    if limits["champion"] is None:
        return f"The gates would compare with nothing, there is no champion; floors: {floors}."
    return (
        f"The gates would compare with champion {limits['champion']} (overall {limits['overall']}): at most "
        f"{limits['margin']} worse overall, {limits['max_task_drop']} on a set; floors: {floors}."
    )

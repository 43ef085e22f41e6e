"""`embedline history`: which version was champion when, and why."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cli.options import Machine
from cli.screen import say, screen

if TYPE_CHECKING:
    from components.registry.history import Reign

SHOWN_OF_A_DIGEST = 12


def history(
    at: Annotated[
        str | None,
        typer.Option(help="What was production on this day, or at this time of UTC or an offset."),
    ] = None,
    machine: Machine = False,
) -> None:
    """Show which version was champion when, and why, from the ledger; every line of it is verified first.

    Example: `embedline history --at 2026-03-01`
    """
    from components.registry import promotion, tracking
    from components.registry.history import during, period, reigns

    wanted = period(at) if at else None
    tracked = tracking.find(Path())
    entries = promotion.history(tracked) if tracked else []
    mirror = promotion.compare_with_mirror(tracked) if tracked else None
    everything = reigns(entries)
    found = during(everything, wanted) if wanted else everything
    unfinished = entries[-1] if entries and entries[-1].state == "pending" else None
    if machine:
        say(
            {
                "reigns": [asdict(reign) for reign in found],
                "lines": len(entries),
                "mirror": mirror,
                "unfinished": unfinished is not None,
            }
        )
        return
    if found:
        screen.print(table(found))
    elif not everything:
        screen.print("No version was ever promoted here.")
    else:
        first = everything[0]
        screen.print(f"Nothing was production then: version {first.version} was the first, since {first.since}.")
    compared = f" and compared with {mirror}" if mirror else ""
    screen.print(f"{len(entries)} lines of the ledger were verified{compared}.")
    if unfinished:
        screen.print(
            f"{unfinished.action} of version {unfinished.version}, begun {unfinished.time}, was not finished: "
            "`embedline reconcile` does it."
        )


def table(reigns: list[Reign]) -> Table:
    """Returns a row a reign, for a person."""
    listing = Table("version", "since", "until", "by", "why", "verdicts")
    for reign in reigns:
        digests = " ".join(digest[:SHOWN_OF_A_DIGEST] for digest in reign.verdicts) or "-"
        cells = (reign.version, reign.since, reign.until or "now", reign.action, reign.reason or "-", digests)
        listing.add_row(*map(Text, cells))
    return listing

"""`embedline reproduce`: a version made again from its commit and its data, to see whether the same comes out."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from cli.options import Machine
from cli.screen import errors, say, screen
from components.errors import UsageError

if TYPE_CHECKING:
    from components.stages.reproduce import Reproduction

DIFFERS = 1


def reproduce(
    version: Annotated[int, typer.Argument(min=1, help="A registered version.")],
    into: Annotated[Path | None, typer.Option(help="A new folder, which stays; else a temporary one.")] = None,
    machine: Machine = False,
) -> None:
    """Make a version again in a folder of its own and compare; exit code 1 if anything differs. Nothing is deployed.

    Example: `embedline reproduce 3`
    """
    from components.lineage import worktree
    from components.registry import tracking
    from components.stages import reproduce as reproduction

    if (tracked := tracking.find(Path())) is None:
        raise UsageError("no round has run here yet", "Run one with `embedline run`.")
    with tempfile.TemporaryDirectory() as folder:
        place = into or Path(folder, "workspace")
        found = reproduction.reproduce(Path(), tracked, str(version), place, errors.print)
        if into is None:
            worktree.remove(Path(), place)
    if machine:
        say({**asdict(found), "equal": found.equal})
    else:
        show(found)
    if not found.equal:
        raise typer.Exit(DIFFERS)


def show(found: Reproduction) -> None:
    """Prints what is equal and what differs, for a person."""
    listing = Table("artifact", "bytes")
    for path, equal in found.artifacts.items():
        listing.add_row(Text(path), "equal" if equal else "differ")
    screen.print(listing)
    for path in found.inputs:
        screen.print(Text(f"{path} is not as it was then: what comes out may differ for that."))
    for name, metrics in found.scores.items():
        for metric, (then, now) in metrics.items():
            if then != now:
                screen.print(Text(f"{name} {metric}: {then:.4f} then, {now:.4f} now ({now - then:+.4f})"))
    code = f"commit {found.commit[:12]}{' and its uncommitted changes' if found.dirty else ''}"
    screen.print(f"Version {found.version}, from {code}: {'the same' if found.equal else 'differs'}.")

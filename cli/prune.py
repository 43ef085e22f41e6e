"""`embedline prune`: makes space, and takes nothing that a version that stays needs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from cli.options import Machine
from cli.screen import confirm, say, screen
from components.workspace import STATE

if TYPE_CHECKING:
    from components.stages.prune import Pruning, Served

MOST_ROWS = 20


def prune(
    keep: Annotated[
        int | None, typer.Option(min=0, help="How many former champions stay, instead of storage.keep_champions.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    machine: Machine = False,
) -> None:
    """Remove bundles, cached files and checkpoints that no kept version needs; asks first. Records stay.

    Example: `embedline prune --dry-run`
    """
    from components import config as configuration
    from components.stages import prune as pruning
    from components.storage import Storage
    from serving.releases.move import alone

    settings = configuration.read_section(Path(configuration.PARAMETERS), Storage)
    if keep is not None:
        settings = settings.model_copy(update={"keep_champions": keep})
    found = pruning.look(Path(), settings, served())
    if not machine:
        show(found)
    if found.unneeded and not dry_run:
        if not yes:
            confirm("it for good", "embedline prune")
        with alone(STATE):
            found = pruning.prune(Path(), settings, served)
    if machine:
        say({**facts(found), "removed": not dry_run})
    elif not dry_run:
        screen.print(f"Removed: {total(found)}.")


def served() -> Served:
    """Returns the versions that the server of this workspace holds or the routes name, and its copies of others."""
    from components.stages.prune import Served
    from monitoring.doctor import loaded_versions
    from serving import repository
    from serving.routes import ROUTES, read_routes

    held = set(loaded_versions(STATE / "triton.json") or ())
    if (STATE / ROUTES).exists():
        routes = read_routes(STATE)
        held |= {target.version for target in (routes.stable, routes.canary, routes.shadow) if target}
    folder = STATE / "model_repository"
    copies = {version: folder / repository.MODEL / str(version) for version in repository.unneeded(folder, held)}
    return Served(held, copies, partial(repository.remove_version, folder))


def facts(found: Pruning) -> dict[str, Any]:
    """Returns what `--json` says."""
    return {
        "kept": dict(found.kept),
        "unneeded": [
            {"kind": each.kind, "name": each.name, "bytes": each.bytes, "reason": each.reason}
            for each in found.unneeded
        ],
        "bytes": sum(each.bytes for each in found.unneeded),
    }


def total(found: Pruning) -> str:
    return f"{len(found.unneeded)} items, {megabytes(sum(each.bytes for each in found.unneeded))}"


def show(found: Pruning) -> None:
    """Prints what stays, and what may go, the largest first."""
    stays = Table("version", "stays because it")
    for version, reason in found.kept.items():
        stays.add_row(version, Text(reason))
    goes = Table("what", "name", "size", "goes because")
    largest = sorted(found.unneeded, key=lambda each: -each.bytes)
    for each in largest[:MOST_ROWS]:
        goes.add_row(*map(Text, (each.kind, each.name, megabytes(each.bytes), each.reason)))
    if found.kept:
        screen.print(stays)
    if not found.unneeded:
        screen.print("Everything is needed.")
        return
    screen.print(goes)
    more = len(largest) - MOST_ROWS
    screen.print(f"{f'{more} more, see --json; ' if more > 0 else ''}{total(found)} in all.")


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"

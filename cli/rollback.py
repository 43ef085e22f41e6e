"""`embedline rollback`: back to the previous version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Machine, Servers
from cli.screen import say, screen, spell
from components.workspace import STATE


def rollback(
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")] = "",
    to: Annotated[int | None, typer.Option(min=1, help="Another former champion than the previous one.")] = None,
    server: Servers = None,
    machine: Machine = False,
) -> None:
    """Make the previous version the champion again; running servers follow, and canary and shadow end.

    Example: `embedline rollback --reason "wrong answers for flags"`
    """
    from components import config as configuration
    from components.export.config import Serving
    from serving.roles import roll_back

    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    roles = roll_back(STATE, reason, str(to) if to else None, server or settings.servers)
    if machine:
        say(dict(roles))
    else:
        screen.print(f"Roles: {spell(roles)}")

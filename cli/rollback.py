"""`embedline rollback`: back to the previous version."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen, spell
from components.workspace import STATE


def rollback(
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")] = "", machine: Machine = False
) -> None:
    """Make the previous version the champion again; a running server follows.

    Example: `embedline rollback --reason "wrong answers for flags"`
    """
    from serving.roles import roll_back

    roles = roll_back(STATE, reason)
    if machine:
        say(dict(roles))
    else:
        screen.print(f"Roles: {spell(roles)}")

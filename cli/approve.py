"""`embedline approve`: a person's word on a candidate that both gates have passed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Machine, Servers
from cli.screen import say, screen, spell


def approve(
    version: Annotated[int, typer.Argument(min=1, help="The version that waits.")],
    by: Annotated[str, typer.Option(help="Who decides; the ledger keeps it.")],
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")],
    reject: Annotated[bool, typer.Option("--reject", help="Send it away; no later round brings it back.")] = False,
    server: Servers = None,
    machine: Machine = False,
) -> None:
    """Let a candidate that waits become champion, or send it away (promotion.approval: required).

    Example: `embedline approve 3 --by Ada --reason "the new flags are right"`
    """
    from components import config as configuration
    from components.export.config import Serving
    from components.registry import tracking
    from serving.roles import decide

    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    tracked = tracking.prepare(Path())
    roles = decide(tracked, str(version), reject, by, reason, server or settings.servers)
    if machine:
        say(dict(roles))
    else:
        screen.print(f"Version {version} is {'sent away' if reject else 'champion'}. Roles: {spell(roles)}")

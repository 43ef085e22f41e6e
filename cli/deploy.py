"""`embedline deploy`: a version on the servers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.options import Machine, Servers
from cli.routes import spell_routes
from cli.screen import say, screen
from components.workspace import STATE


def deploy(
    version: Annotated[int, typer.Argument(min=1, help="A registered version.")],
    canary: Annotated[
        float | None, typer.Option(min=0, max=1, help="The share of users that it answers; 0 ends that.")
    ] = None,
    shadow: Annotated[
        float | None, typer.Option(min=0, max=1, help="The share of requests that it answers unseen; 0 ends that.")
    ] = None,
    server: Servers = None,
    machine: Machine = False,
) -> None:
    """Deploy the champion again, or try another version on some users (canary) or on copies of requests (shadow).

    Example: `embedline deploy 3 --canary 0.1`
    """
    from components import config as configuration
    from components.export.config import Serving
    from serving.releases import deploy as releases

    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    done = releases.release(STATE, version, canary, shadow, server or settings.servers)
    if machine:
        say(asdict(done))
    else:
        screen.print(f"{spell_routes(done.routes)} On {', '.join(done.servers)}.")

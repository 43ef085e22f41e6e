"""`embedline transfer`: a version of another environment, checked again and promoted in this one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen, spell


def transfer(
    version: Annotated[int, typer.Argument(min=1, help="The version, by its number in the other environment.")],
    origin: Annotated[str, typer.Option("--from", help="The environment that it passed both gates in.")] = "dev",
    machine: Machine = False,
) -> None:
    """Copy a version of another environment into this workspace's (registry.environment), and promote it here if it
    passes both gates again.

    Example: `embedline transfer 3 --from dev`
    """
    from dataclasses import asdict

    from components import config as configuration
    from flows.transfer import transfer as copy

    done = copy(str(version), origin, configuration.read(Path(configuration.PARAMETERS)))
    if machine:
        say(asdict(done))
        return
    screen.print(f"Version {version} of {origin} is version {done.version} here: {done.quality}", markup=False)
    screen.print(f"Roles: {spell(done.roles)}")
    if done.roles["challenger"] == done.version:
        screen.print(f"It waits for `embedline approve {done.version}`.")

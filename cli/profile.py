"""`embedline profile`: the recipes of the literature."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen


def profile(
    name: Annotated[
        str | None,
        typer.Argument(help="A profile of the folder profiles, or `default` for none; without a name they are listed."),
    ] = None,
    machine: Machine = False,
) -> None:
    """Change params.yaml to a recipe of the literature, go back to the default, or list the recipes there are.

    Example: `embedline profile vlm2vec`
    """
    from components.config import PARAMETERS
    from components.profiles import DEFAULT, apply_profile, profile_names, read_profile, restore_default

    if name == DEFAULT:
        restore_default()
        say([]) if machine else screen.print(f"{PARAMETERS} has the recipes from before any profile.")
        return
    found = [apply_profile(name)] if name else [read_profile(known) for known in profile_names()]
    if machine:
        say([vars(one) for one in found])
    elif name:
        screen.print(f"{PARAMETERS} now trains after {found[0].paper}.\nWhere it differs: {found[0].differs}.")
        screen.print("Next: embedline run")
    else:
        for one in found:
            screen.print(f"[bold]{one.name}[/bold]: {one.paper}")

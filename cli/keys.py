"""`embedline keys`: who may ask the gateway."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.table import Table

from cli.options import Machine
from cli.screen import say, screen
from components.errors import UsageError
from components.workspace import STATE


class Action(StrEnum):
    create = "create"
    list = "list"
    revoke = "revoke"


def keys(
    action: Annotated[Action, typer.Argument(help="What to do.")],
    name: Annotated[str | None, typer.Argument(help="Whose key, to create or revoke.")] = None,
    rate: Annotated[float | None, typer.Option(help="Items a second that a new key may send.")] = None,
    machine: Machine = False,
) -> None:
    """Create, list or revoke the API keys of the gateway; once there is one, nobody is answered without.

    Example: `embedline keys create search-page --rate 50`
    """
    from serving.gateway import keys as stored

    if action is Action.list:
        facts = [
            {"name": key.name, "created": key.created, "rate": key.rate, "revoked": key.revoked}
            for key in stored.read(STATE)
        ]
        if machine:
            say(facts)
            return
        listing = Table(*("name", "created", "rate", "revoked"))
        for each in facts:
            listing.add_row(*("" if value is None else str(value) for value in each.values()))
        screen.print(listing)
        return
    if not name:
        raise UsageError(f"nobody is named whose key to {action.value}", f"embedline keys {action.value} NAME")
    if rate is not None and rate <= 0:
        raise UsageError(f"--rate {rate:g} lets nothing pass", "Give more than 0, or leave it out.")
    if action is Action.create:
        secret = stored.create(STATE, name, rate)
        say({"name": name, "key": secret}) if machine else print(secret)
    else:
        stored.revoke(STATE, name)
        say({"name": name, "revoked": True}) if machine else screen.print(f"The key {name!r} is valid no longer.")

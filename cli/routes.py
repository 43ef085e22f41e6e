"""`embedline routes`: which version answers, and what was seen of those on trial."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import Machine, Servers
from cli.screen import say, screen, spell
from components.workspace import STATE

if TYPE_CHECKING:
    from serving.routes import Routes


def routes(server: Servers = None, machine: Machine = False) -> None:
    """Show which version answers, what every server holds, and what canary and shadow have shown.

    Example: `embedline routes`
    """
    from components import config as configuration
    from components.export.config import Serving
    from serving.releases import canary, shadow
    from serving.releases.places import places
    from serving.routes import STABLE, TRIAL, read_routes

    found = read_routes(STATE)
    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    held = {
        place.url: {model: place.loaded(model) for model in (STABLE, TRIAL)}
        for place in places(STATE, server or settings.servers)
    }
    seen, mirrored = canary.read_report(STATE), shadow.read_report(STATE)
    if machine:
        known = {"canary": seen and asdict(seen), "shadow": mirrored and asdict(mirrored)}
        say({"routes": asdict(found), "servers": held, "reports": known})
        return
    screen.print(spell_routes(found))
    for url, models in held.items():
        screen.print(f"{url} holds {spell({name: versions for name, versions in models.items() if versions})}")
    if seen:
        for name, summary in (("stable", seen.stable), ("canary", seen.canary)):
            screen.print(f"Canary report, {name}: {spell(asdict(summary))}")
        screen.print(f"Canary report: {seen.verdict}: {seen.reason}")
    if mirrored:
        screen.print(f"Shadow report: {spell(asdict(mirrored))}")


def spell_routes(found: Routes) -> str:
    """Returns a sentence for each target."""
    said = f"Version {found.stable.version} answers."
    if found.canary:
        said += f" Version {found.canary.version} answers {found.canary_share:.0%} of the users, as a canary."
    if found.shadow:
        said += f" Version {found.shadow.version} answers copies of {found.shadow_share:.0%} of the requests."
    return said

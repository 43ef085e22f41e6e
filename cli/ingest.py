"""`embedline ingest`: the data set, and its version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Git, Machine
from cli.screen import errors, say, screen, spell


def ingest(
    git: Git = False,
    feedback: Annotated[bool, typer.Option("--feedback", help="Take the pairs that users have labelled.")] = False,
    machine: Machine = False,
) -> None:
    """Build the data set that params.yaml describes and version it with DVC.

    Example: `embedline ingest`
    """
    from cli.progress import shown
    from components import lineage
    from components.corpus import Manifest
    from components.corpus.pairs import joined
    from components.workspace import DATA
    from flows.ingest import ingest as flow

    if git:
        lineage.start_repository(Path(), errors.print)
    with shown(errors):
        version = flow(feedback=feedback)
    manifest = Manifest.read(DATA)
    facts = {
        "data": version,
        "rows": manifest.tasks.rows,
        "images": manifest.images,
        "quarantined": manifest.quarantined,
    }
    if machine:
        say(facts)
    else:
        screen.print(f"data/ is version [bold]{version}[/bold]: {spell(facts)}")
        if line := joined(DATA):
            screen.print(line, markup=False)

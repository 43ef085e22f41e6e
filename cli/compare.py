"""`embedline compare`: whether one model is better than another."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen

SAMPLES = 10_000
CONFIDENCE = 0.95


def compare(
    ours: Annotated[str, typer.Argument(help="A score file, or the name of a model that a round has scored.")],
    theirs: Annotated[str, typer.Argument(help="Another one, of the same queries.")],
    machine: Machine = False,
) -> None:
    """Say whether one model is better than another, query by query, with intervals.

    Example: `embedline compare student teacher`
    """
    from components.comparison import compare as paired
    from components.evaluation.any_model import read_scores
    from components.evaluation.reports import comparison_table

    one, other = read_scores(ours), read_scores(theirs)
    found = paired(asdict(one), asdict(other), SAMPLES, CONFIDENCE, same_prompts=False)
    note = (
        None if one.prompts == other.prompts else "The prompts differ: each model was asked in its own family's words."
    )
    if machine:
        say({"verdict": found.words(one.model.name, other.model.name), "note": note, **asdict(found)})
        return
    screen.print(comparison_table(found, (one.model.name, other.model.name)))
    if note:
        screen.print(note)

"""`embedline compare`: whether one model is better than another."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen

if TYPE_CHECKING:
    from components.scores import Scores

SAMPLES = 10_000
CONFIDENCE = 0.95


def compare(
    ours: Annotated[
        str,
        typer.Argument(help="A score file, a model that a round has scored, models:/NAME/3 or models:/NAME@champion."),
    ],
    theirs: Annotated[str, typer.Argument(help="Another one, of the same queries.")],
    machine: Machine = False,
) -> None:
    """Say whether one model is better than another, query by query, with intervals.

    Example: `embedline compare student teacher`
    """
    from components.evaluation.reports import comparison_table
    from components.scores import compare as paired

    one, other = scores_of(ours), scores_of(theirs)
    found = paired(one, other, SAMPLES, CONFIDENCE, same_prompts=False)
    note = (
        None if one.prompts == other.prompts else "The prompts differ: each model was asked in its own family's words."
    )
    if machine:
        say({"verdict": found.words(one.model.name, other.model.name), "note": note, **asdict(found)})
        return
    screen.print(comparison_table(found, (one.model.name, other.model.name)))
    if note:
        screen.print(note)


def scores_of(name: str) -> Scores:
    """Returns a score file's scores, or those of a registered version, which its own bundle's runtime answers now."""
    from components.evaluation.any_model import Questions, evaluate_model, read_scores

    if not name.startswith("models:/"):
        return read_scores(name)
    from cli.evaluate import bars
    from components import config as configuration
    from serving.client import open_model

    settings = configuration.read(Path(configuration.PARAMETERS)).evaluation
    with bars() as show:
        return evaluate_model(name, Questions("data"), settings, open_model, show).scores

"""`embedline evaluate`: any model on any suite."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.options import Machine
from cli.screen import errors, say, screen, spell

if TYPE_CHECKING:
    from components.evaluation import Done


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A model directory, models:/NAME/3, models:/NAME@champion, triton://HOST:PORT/MODEL/VERSION, "
            "https://HOST/v1#MODEL, or vectors:FOLDER."
        ),
    ],
    suite: Annotated[
        str, typer.Option(help="data, mmeb-v1, mmeb-v2, xtd, mteb:TASK, sts:FILE, or a probe such as robustness.")
    ] = "data",
    mirror: Annotated[Path | None, typer.Option(help="The folder that holds a published benchmark's files.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Score this set alone; may be repeated.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The family whose prompts the model wants, such as qwen2_vl.")
    ] = None,
    dimension: Annotated[
        int | None, typer.Option(help="Cut the vectors to their first numbers, as many as this.")
    ] = None,
    vlm2vec: Annotated[Path | None, typer.Option(help="Write the scores in VLM2Vec's report layout too.")] = None,
    page: Annotated[bool, typer.Option("--open", help="Open the HTML page of the scores.")] = False,
    machine: Machine = False,
) -> None:
    """Score a model on a suite of evaluation sets; the scores and a page of them stay in .embedline/evaluations.

    Example: `embedline evaluate artifacts/student --suite robustness`
    """
    from components import config as configuration
    from components.evaluation import table
    from components.evaluation.any_model import MTEB, SIMILARITY, Questions, evaluate_elsewhere, evaluate_model
    from components.evaluation.reports import write_report
    from serving.client import open_model

    settings = configuration.read(Path(configuration.PARAMETERS)).evaluation
    questions = Questions(suite, mirror, task or (), backbone, dimension)
    if suite.startswith((MTEB, SIMILARITY)):
        with bars() as show:
            numbers = evaluate_elsewhere(model, questions, settings, open_model, show)
        if machine:
            say(numbers)
        else:
            screen.print(spell(numbers))
        return
    with bars() as show:
        found = evaluate_model(model, questions, settings, open_model, show)
    if vlm2vec:
        write_report(found.scores, vlm2vec)
    if page:
        webbrowser.open(found.page.resolve().as_uri())
    if machine:
        by_set = {name: task.score for name, task in found.scores.tasks.items()}
        rest = {"missing": found.scores.missing, "scores": str(found.file), "items_per_second": found.items_per_second}
        say({**found.scores.aggregates, **found.measured, "tasks": by_set, **rest})
        return
    if found.measured:
        measured = Table(suite, found.scores.model.name)
        for name, value in found.measured.items():
            measured.add_row(name, f"{value:.3f}")
        screen.print(measured)
    else:
        screen.print(table({found.scores.model.name: found.scores}))
    if found.scores.missing:
        screen.print(f"No overall score, without {', '.join(found.scores.missing)}.")
    screen.print(f"{found.items_per_second:,.0f} items a second were encoded.")
    screen.print(f"The scores are in {found.file}, their page is {found.page}.")


@contextmanager
def bars() -> Iterator[Callable[[Done], None]]:
    """Yields what shows how far the encoding is, of all items and of the present set's."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        everything, one = progress.add_task("all items"), progress.add_task("")

        def show(done: Done) -> None:
            progress.update(everything, completed=done.all_items, total=done.of_all)
            progress.update(one, description=done.task, completed=done.items, total=done.of)

        yield show

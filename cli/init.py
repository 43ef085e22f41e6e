"""`embedline init`: looks at pairs of images and texts, and writes a params.yaml that fits them."""

from __future__ import annotations

import re
import shutil
import sys
from itertools import chain, count
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.options import Machine
from cli.screen import say, screen
from components.errors import UsageError
from components.files import write_text
from components.source import ROOT

PARAMETERS = "params.yaml"
BEFORE = f"{PARAMETERS}.before-init"
CODE = "components"
COPIED = ("dvc.yaml", "params.schema.json", ".gitignore")


def init(
    source: Annotated[
        Path,
        typer.Argument(help="A CSV, JSONL or Parquet table, a folder of images, a data set, or a tar."),
    ],
    name: Annotated[str | None, typer.Option(help="What to call the data set; without it, as the source.")] = None,
    image_column: Annotated[str | None, typer.Option(help="The column that holds or names the images.")] = None,
    text_column: Annotated[str | None, typer.Option(help="The column that holds the texts.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help=f"Replace another {PARAMETERS}; a copy is kept.")] = False,
    machine: Machine = False,
) -> None:
    """Look at your own images and texts, and write a params.yaml that fits them.

    Example: `embedline init pairs.csv`
    """
    import yaml

    from components.config import parse
    from components.corpus.inspect import name_of, source_at
    from components.expected_time import training_seconds
    from components.proposal import as_json, look_at, parameters, spelt

    if name is not None and not re.fullmatch(r"[\w-]+", name):
        raise UsageError(f"--name {name}: files are called after it", "Use letters, digits, - and _ alone.")
    section = source_at(source, image_column, text_column)
    facts = look_at(section, name or name_of(source))
    text = parameters(facts)
    refuse_to_replace(text, force)
    seconds = training_seconds(parse(yaml.safe_load(text)).teacher, sum(facts.train.values()))
    if not machine:
        listing = Table(f"the first {len(facts.shown)} pairs", "text")
        for row in facts.shown:
            listing.add_row(*row)
        screen.print(listing)
        screen.print(
            f"{facts.corpus['name']} ({facts.corpus['source']}, {facts.corpus.get('columns', 'no columns')}): "
            f"{facts.pairs} training pairs, {facts.images} images of {facts.shortest_side} to {facts.longest_side} "
            f"pixels, {facts.quarantined} rows that cannot be used; scripts: {', '.join(facts.scripts)}.\n"
            f"Held out: {spelt(facts.eval)}. {facts.joined}.\n"
            f"The teacher trains for about {max(1, round(seconds / 60))} min on this machine as it is now, at most.",
            markup=False, highlight=False,
        )  # fmt: skip
    asked = not (machine or yes or name or image_column or text_column) and sys.stdin.isatty()
    if asked and not typer.confirm(f"Write {PARAMETERS}?", default=True):
        raise UsageError("nothing was written", "Name columns with --image-column and --text-column.")
    written = write(text)
    if machine:
        say({**as_json(facts), "teacher_seconds": seconds, "written": written})
    else:
        screen.print(f"Written: {', '.join(written)}. Next: [bold]embedline run[/bold]")


def refuse_to_replace(text: str, force: bool) -> None:
    """Raises `UsageError` if there is another params.yaml here, unless it may be replaced."""
    present = Path(PARAMETERS)
    if present.exists() and present.read_bytes() != text.encode() and not force:
        raise UsageError(
            f"{present} is there already, with other content",
            f"Work in a new folder, or replace it with --force: the present one is kept as {unused_copy()}.",
        )


def unused_copy() -> Path:
    """Returns the first of `params.yaml.before-init`, `params.yaml.before-init-2`, ... that is not there."""
    numbered = (Path(f"{BEFORE}-{number}") for number in count(2))
    return next(copy for copy in chain([Path(BEFORE)], numbered) if not copy.exists())


def write(text: str) -> list[str]:
    """Writes params.yaml, keeps one that was there, and adds what else a workspace needs; returns what it wrote."""
    if not (ROOT / "dvc.yaml").is_file():
        raise UsageError(f"{ROOT}: the project's dvc.yaml is missing", "Install Embedline from its checkout.")
    written = []
    present = Path(PARAMETERS)
    if present.exists() and present.read_bytes() != text.encode():
        copy = unused_copy()
        shutil.copyfile(present, copy)
        written.append(str(copy))
    write_text(present, text)
    written.append(PARAMETERS)
    for file in COPIED:
        if not Path(file).exists() and (ROOT / file).is_file():
            shutil.copyfile(ROOT / file, file)
            written.append(file)
    if not Path(CODE).exists():  # dvc.yaml depends on the code that runs, so DVC must find it here
        Path(CODE).symlink_to(ROOT / CODE)
        written.append(CODE)
    return written

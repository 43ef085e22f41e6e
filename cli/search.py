"""`embedline search`: the images nearest to a text, an image, or both."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.options import Machine
from cli.screen import say, screen
from components.errors import UsageError
from components.workspace import STATE

PAGE = Path("search.html")


def search(
    text: Annotated[str | None, typer.Argument(help="What to search for.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="An image to search with, alone or together with the text.")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What kind of answer is wanted.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model than the champion: models:/NAME/3, or a model directory.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="How many to show.")] = 10,
    page: Annotated[bool, typer.Option("--open", help="Write search.html with the images and open it.")] = False,
    machine: Machine = False,
) -> None:
    """Find the images of data/ nearest to a text, an image, or both, by the champion on Triton or another model.

    Example: `embedline search "a sad cat"`
    """
    from components import config as configuration
    from components.export.config import Serving
    from components.files import write_text
    from serving.asking import search_served, search_with
    from serving.page import results_page

    if not text and image is None:
        raise UsageError("nothing to search for", 'Give a text or an image: embedline search "a sad cat"')
    if image is not None and not image.is_file():
        raise UsageError(f"{image}: no such file", "Name a PNG, JPEG, WebP or GIF file.")
    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    if model:
        found = search_with(STATE, model, text, image, instruction, top)
    else:
        found = search_served(STATE, settings, text, image, instruction, top)
    if page:
        write_text(PAGE, results_page(found.query, found.hits, found.model, found.latency_ms, found.searched))
        webbrowser.open(PAGE.resolve().as_uri())
    if machine:
        say({"model": found.model, "latency_ms": found.latency_ms, "hits": [hit._asdict() for hit in found.hits]})
        return
    listing = Table(title=f"{found.model}, {found.latency_ms:.1f} ms, {found.searched} images")
    for column in ("", "score", "name", "image"):
        listing.add_column(column)
    for rank, hit in enumerate(found.hits, 1):
        listing.add_row(str(rank), f"{hit.score:.3f}", hit.text, hit.image_path)
    screen.print(listing)
    if page:
        screen.print(f"The images are in {PAGE}.")

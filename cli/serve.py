"""`embedline serve`: Triton, until it is stopped."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.screen import screen
from components.errors import EmbedlineError, UsageError
from components.workspace import STATE


def serve(
    container: Annotated[
        bool, typer.Option("--print-container", help="Print the docker command that serves the champion, and end.")
    ] = False,
    layout: Annotated[
        Literal["onnxruntime", "tensorrt"] | None,
        typer.Option(help="With --print-container: which of Triton's backends computes the graphs, on a GPU."),
    ] = None,
) -> None:
    """Start Triton on the champion and the previous version, until Ctrl-C or SIGTERM.

    Example: `embedline serve`
    """
    from components import config as configuration
    from components.export.config import Serving
    from serving.container import print_container
    from serving.roles import serve_roles

    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    if container:
        print(print_container(STATE, settings, layout))
        return
    if layout:
        raise UsageError("--layout is for --print-container", "Name both.")
    for request in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(request, lambda *_: sys.exit(0))  # on its way out it stops the server, as Ctrl-C does
    with serve_roles(STATE, settings) as (server, versions):
        screen.print(
            f"Triton answers on http://{server.url} with version {versions[0]} (of {versions}); "
            f"metrics on {server.metrics_url}. Ctrl-C stops it."
        )
        while server.is_running:
            time.sleep(0.5)
        raise EmbedlineError("Triton has ended by itself", f"See {server.log}, then start it again.")

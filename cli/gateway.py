"""`embedline gateway`: the HTTP interface for applications, until it is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.workspace import STATE


def gateway(
    host: Annotated[str | None, typer.Option(help="Where to listen, instead of gateway.host.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Instead of gateway.port; 0: any free one.")
    ] = None,
    triton: Annotated[
        str | None, typer.Option(help="Triton's gRPC address HOST:PORT, instead of this folder's.")
    ] = None,
) -> None:
    """Answer OpenAI's `POST /v1/embeddings` by the versions that are served, until Ctrl-C or SIGTERM.

    Example: `embedline gateway`
    """
    from components import config as configuration
    from components.gateway import Gateway
    from serving.gateway.server import run

    settings = configuration.read_section(Path(configuration.PARAMETERS), Gateway)
    given = {"host": host, "port": port, "triton": triton}
    run(STATE, settings.model_copy(update={name: value for name, value in given.items() if value is not None}))

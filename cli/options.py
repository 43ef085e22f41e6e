"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Machine = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Git = Annotated[
    bool, typer.Option("--git", help="Make this folder a git repository with a first commit if it has none.")
]
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", help="Another Triton, http://HOST:PORT; may be repeated. Else those of serving.servers."),
]

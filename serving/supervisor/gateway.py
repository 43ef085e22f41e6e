"""The gateway as a child: how it is started, and whether it answers."""

from __future__ import annotations

import json
import sys
from functools import partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from components.errors import EmbedlineError
from serving.supervisor.child import Child

WHERE = "gateway.json"
"""Where the gateway of a workspace says on which `host` and `port` it listens."""
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (asked for, not listened on)
PROBE_TIMEOUT_SECONDS = 10


def gateway(home: Path) -> Child:
    return Child("gateway", (sys.executable, "-m", "cli.main", "gateway"), partial(ask, home.resolve()))


def ask(home: Path) -> None:
    """Asks whether it lives, not whether Triton does: a restart of the gateway would not help that. Raises
    `EmbedlineError` if it does not answer."""
    try:
        where = json.loads((home / WHERE).read_text(encoding="utf-8"))
        host = EVERYWHERE.get(where["host"], where["host"])
        connection = HTTPConnection(host, where["port"], timeout=PROBE_TIMEOUT_SECONDS)
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        connection.close()
    except (OSError, ValueError, KeyError, HTTPException) as error:
        raise EmbedlineError(f"no gateway answers: {error!r}", f"see its log: {home / 'gateway.log'}") from error
    if status != 200:
        raise EmbedlineError(f"the gateway answers {status}", f"see its log: {home / 'gateway.log'}")

"""Where commands print: for a person on the screen, for a machine as one line of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from components.errors import UsageError

screen, errors = Console(), Console(stderr=True)


def say(facts: Any) -> None:
    """Prints one line of JSON."""
    print(json.dumps(facts, default=str))


def confirm(deleted: str, command: str) -> None:
    """Asks whether to delete it for good. Raises `UsageError` unless the answer is yes."""
    errors.print(f"This deletes {deleted}.\nType yes to go on: ", end="", markup=False)
    if sys.stdin.readline().strip() != "yes":
        raise UsageError("nothing was deleted: the answer was not yes", f"Answer yes, or run {command} --yes")


def spell(facts: Mapping[str, Any]) -> str:
    """Returns the facts in a line for a person, without those that are not known."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)

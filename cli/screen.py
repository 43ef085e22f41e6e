"""Where commands print: for a person on the screen, for a machine as one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console

screen, errors = Console(), Console(stderr=True)


def say(facts: Any) -> None:
    """Prints one line of JSON."""
    print(json.dumps(facts, default=str))


def spell(facts: Mapping[str, Any]) -> str:
    """Returns the facts in a line for a person, without those that are not known."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)

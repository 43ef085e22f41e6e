"""What a benchmark measured, as a table to read or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measurement, and that of the peer that `name` has in brackets; `ratio` is how many times that ours is.

    `goal` is what was asked for (None where nothing was), `met` whether it holds.
    """

    name: str
    value: float
    unit: str
    peer: float | None = None
    ratio: float | None = None
    goal: float | None = None
    met: bool | None = None


def show(title: str, rows: Sequence[Row], machine: bool, caption: str = "in brackets: the peer") -> None:
    """Prints the fields that any row has, a column each; with `machine`, all of them as JSON."""
    if machine:
        print(json.dumps([asdict(row) for row in rows]))
        return
    names = [field.name for field in fields(rows[0])] if rows else []
    columns = {name: [_cell(getattr(row, name)) for row in rows] for name in names}
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(title=title, caption=caption)
    for name in shown:
        table.add_column(
            name.replace("_", " "),
            justify="left" if isinstance(getattr(rows[0], name), str) else "right",
            overflow="fold",
        )
    for line in zip(*shown.values(), strict=True):
        table.add_row(*line)
    Console().print(table)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " to ".join(map(_cell, value))
    if isinstance(value, float | int):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}".rstrip("0").rstrip(".")
    return value or ""

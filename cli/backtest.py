"""`embedline backtest`: when a retraining policy would have retrained, and at what cost."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen
from components.errors import UsageError
from components.workspace import STATE

if TYPE_CHECKING:
    from monitoring.policies import Replay

EVERY = "all"


def backtest(
    policy: Annotated[str, typer.Argument(help="A policy of monitoring.policies in params.yaml, or all.")] = EVERY,
    history: Annotated[Path, typer.Argument(help="Reports.")] = STATE / "monitoring" / "history.jsonl",
    machine: Machine = False,
) -> None:
    """Replay retraining policies on recorded windows and say when each would have retrained, and at what cost.

    Example: `embedline backtest all`
    """
    from components.config import PARAMETERS, read_section
    from components.monitoring.config import Monitoring
    from monitoring.policies import replays
    from monitoring.report import read_history

    policies = read_section(Path(PARAMETERS), Monitoring).policies
    if policy not in (EVERY, *policies):
        known = ", ".join((EVERY, *policies))
        raise UsageError(f"{policy}: no such policy", f"Name one of {known}, or add it to monitoring.policies.")
    if not history.is_file():
        raise UsageError(f"{history}: no such file", "Run `embedline monitor`, which writes a history.")
    chosen = policies if policy == EVERY else {policy: policies[policy]}
    found = replays(chosen, read_history(history))
    if machine:
        say([asdict(each) for each in found])
    else:
        _show(found)


def _show(found: list[Replay]) -> None:
    from rich.table import Table

    table = Table("policy", "retrainings", "cost", "alarms", "days from alarm", "when and why")
    for each in found:
        reasons = [f"{datetime.fromtimestamp(one.time, UTC):%Y-%m-%d %H:%M} {one.reason}" for one in each.retrainings]
        waited = "" if each.wait_days is None else f"{each.wait_days:.2f}"
        table.add_row(each.policy, str(len(reasons)), f"{each.cost:g}", str(each.alarms), waited, "\n".join(reasons))
    screen.print(table)

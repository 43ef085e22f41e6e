"""`embedline lineage`: what a version was made from, and what was made from a data set, a run or an artifact."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.tree import Tree

from cli.options import Machine
from cli.screen import say, screen
from components.errors import UsageError
from components.workspace import STATE

if TYPE_CHECKING:
    from components.registry.ancestry import Node

MOST_SHOWN = 8


def lineage(
    name: Annotated[
        str,
        typer.Argument(help="A version, an MLflow run, a commit, or a hash from data.dvc or dvc.lock."),
    ],
    machine: Machine = False,
) -> None:
    """Show what a version or run was made from, and what was made from a data set, run, commit or artifact.

    Example: `embedline lineage 3`
    """
    from components.registry import ancestry, promotion, tracking
    from monitoring.doctor import loaded_versions

    if (tracked := tracking.find(Path())) is None:
        raise UsageError("no round has run here yet", "Run one with `embedline run`.")
    records = ancestry.read(tracked, promotion.history(tracked), loaded_versions(STATE / "triton.json"))
    node = ancestry.trace(records, name)
    if machine:
        say(asdict(node))
    else:
        screen.print(tree(node))


def tree(node: Node) -> Tree:
    """Returns the node, its facts, what it was made from and what it led to, as a person reads them."""
    root = Tree(f"[bold]{escape(f'{node.kind} {node.name}')}[/bold]")
    for fact, value in node.facts.items():
        for line in lines(fact.replace("_", " "), value):
            root.add(escape(line))
    for title, others in (("made from", node.made_from), ("led to", node.led_to)):
        if others:
            branch = root.add(f"[italic]{title}[/italic]")
            for other in others:
                branch.add(tree(other))
    return root


def lines(fact: str, value: Any) -> list[str]:
    """Returns the lines of a fact: none of what is not known, the number of what is too much for a screen."""
    if value is None or value == {} or value == []:
        return []
    if isinstance(value, dict):
        return [f"{fact}: {len(value)}, see --json"] if len(value) > MOST_SHOWN else [f"{fact}: {spelt(value)}"]
    if isinstance(value, list):
        return [f"{fact}: {each}" for each in value]
    return [f"{fact}: {value:.1f}" if isinstance(value, float) else f"{fact}: {value}"]


def spelt(facts: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()
    )

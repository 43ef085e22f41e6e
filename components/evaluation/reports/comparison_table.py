"""Two models side by side, as a person reads them."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from components.scores.comparison import Comparison, Difference


def comparison_table(comparison: Comparison, names: tuple[str, str]) -> Table:
    """Returns a table in percent and points: overall, then a row a set, and below it the verdict in words.

    Both p-values, that of random signs and McNemar's, are adjusted by Holm over the sets.
    """
    grid = Table(
        title=Text(" against ".join(names)),
        caption=Text(comparison.words(*names)),
        caption_style="bold",
        caption_justify="left",
    )
    for column in ("set", *names):
        grid.add_column(Text(column), justify="left" if column == "set" else "right", overflow="fold")
    for column in ("points", f"{comparison.confidence:.0%} interval", "p (Holm)", "McNemar"):
        grid.add_column(column, justify="right", no_wrap=True)
    grid.add_column("better", overflow="fold")
    grid.add_row(*_cells(comparison.overall, names), style="bold")
    grid.add_section()
    for task in comparison.tasks:
        grid.add_row(*_cells(task, names))
    return grid


def _cells(found: Difference, names: tuple[str, str]) -> list[Text]:
    better = {"better": names[0], "worse": names[1]}.get(found.verdict, "")
    cells = (
        found.name,
        f"{100 * found.ours:.1f}",
        f"{100 * found.theirs:.1f}",
        f"{100 * found.difference:+.1f}",
        f"{100 * found.lower:.1f} to {100 * found.upper:.1f}",
        _p(found.p_different_holm),
        "-" if found.mcnemar_holm is None else _p(found.mcnemar_holm),
        better,
    )
    return [Text(cell) for cell in cells]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"

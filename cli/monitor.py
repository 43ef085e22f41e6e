"""`embedline monitor`: whether what is asked has shifted since the last look, and whether that costs quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen
from components.workspace import BUNDLE, STATE

if TYPE_CHECKING:
    from components.traffic import Window
    from monitoring.report import WindowReport

ALARM_STANDS = 5
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
COLOURS = {"alarm": "red", "note": "yellow", "ok": "green"}


def monitor(
    traffic: Annotated[Path, typer.Option(help="A folder of recorded requests.")] = STATE / "traffic",
    reference: Annotated[Path, typer.Option(help="The reference window of a bundle.")] = BUNDLE / "reference.npz",
    healthy_since: Annotated[
        datetime | None, typer.Option(formats=TIMES, help="Compare with a past period instead; UTC.")
    ] = None,
    healthy_until: Annotated[datetime | None, typer.Option(formats=TIMES, help="Where that ends; UTC.")] = None,
    history: Annotated[Path, typer.Option(help="Where reports are kept.")] = STATE / "monitoring" / "history.jsonl",
    ui: Annotated[
        bool, typer.Option("--ui", help="Then write all looks to a workspace of Evidently, and serve its UI.")
    ] = False,
    ui_port: Annotated[int, typer.Option(help="Where that listens, on this machine alone.")] = 8650,
    machine: Machine = False,
) -> None:
    """Judge the windows of traffic since the last time, and exit with 5 while an alarm stands.

    Beside the history lies `index.html`, the page of all looks.

    Example: `embedline monitor`
    """
    from components.config import PARAMETERS, read_section
    from components.monitoring.config import Monitoring
    from monitoring.report import read_history
    from monitoring.watch import PAGE, look

    if ui:
        from monitoring import evidently_runs  # before the look: it may not be installed
    settings = read_section(Path(PARAMETERS), Monitoring)
    healthy = _reference(traffic, reference, healthy_since, healthy_until, settings.most)
    before = read_history(history)
    reports = [report for found in look(traffic, healthy, settings, history, before) for report in found]
    if machine:
        say([asdict(report) for report in reports])
    else:
        _show(reports)
        screen.print(f"All looks on one page: {history.with_name(PAGE)}")
    everything = [*before, *reports]
    if ui:
        runs = history.with_name("evidently")
        evidently_runs.write_runs(runs, everything)
        evidently_runs.serve(runs, ui_port)
    if any(report.verdict == "alarm" for report in everything if report.until == everything[-1].until):
        raise typer.Exit(ALARM_STANDS)


def _reference(traffic: Path, bundle: Path, since: datetime | None, until: datetime | None, most: int) -> Window:
    from components.traffic import read_window
    from monitoring.reference import bundle_reference

    if since is None and until is None:
        return bundle_reference(bundle)
    start, end = (None if at is None else at.replace(tzinfo=UTC).timestamp() for at in (since, until))
    return read_window(traffic, start, end, most=most)


def _show(reports: Sequence[WindowReport]) -> None:
    from rich.table import Table

    if not reports:
        screen.print("No window has ended since the last time.")
        return
    table = Table("window", "version", "requests", "verdict", "p", "evidence", "what moved most", "by")
    for report in reports:
        first = report.findings[0] if report.findings else None
        colour = COLOURS.get(report.verdict, "dim")
        table.add_row(
            datetime.fromtimestamp(report.since, UTC).strftime("%Y-%m-%d %H:%M"),
            report.version,
            str(report.count),
            f"[{colour}]{report.verdict}[/{colour}]",
            f"{report.p:.3g}",
            f"{report.evidence:.3g} of {report.limit:g}",
            f"{first.slice}: {first.test}" if first else "",
            f"{first.effect:.3g} {first.unit}" if first else "",
        )
    screen.print(table)
    for report in reports:
        if report.verdict == "alarm":
            screen.print(f"{report.version or 'all versions'}: {_explained(report)}")


def _explained(report: WindowReport) -> str:
    said = []
    if report.stands:
        certain = [finding for finding in report.findings if finding.adjusted <= report.findings[0].adjusted][:3]
        said.append(
            "shifted: " + "; ".join(f"{one.slice}, {one.test} by {one.effect:.3g} {one.unit}" for one in certain)
        )
    if report.quality:
        said.append(f"{report.quality.measure} {report.quality.reference:.3f}, now {report.quality.window:.3f}")
    if report.moved:
        said.append("moved most: " + ", ".join(
            one.request_id + (f" ({', '.join(one.concepts)})" if one.concepts else "") for one in report.moved[:5]
        ))  # fmt: skip
    return ". ".join(said)

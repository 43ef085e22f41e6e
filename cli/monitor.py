"""`embedline monitor`: whether what is asked has shifted since the last look, and whether that costs quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import Machine
from cli.screen import say, screen
from components.workspace import BUNDLE, STATE, TRAFFIC

if TYPE_CHECKING:
    from monitoring.reference import Known
    from monitoring.report import WindowReport

ALARM_STANDS = 5
REFERENCE = BUNDLE / "reference.npz"
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]
COLOURS = {"alarm": "red", "note": "yellow", "ok": "green"}


def monitor(
    traffic: Annotated[Path, typer.Option(help="A folder of recorded requests.")] = TRAFFIC,
    reference: Annotated[Path, typer.Option(help="The reference window of a bundle.")] = REFERENCE,
    healthy_since: Annotated[
        datetime | None, typer.Option(formats=TIMES, help="Compare with a past period instead; UTC.")
    ] = None,
    healthy_until: Annotated[datetime | None, typer.Option(formats=TIMES, help="Where that ends; UTC.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--from", formats=TIMES, help="Judge past windows that were not yet; UTC.")
    ] = None,
    until: Annotated[datetime | None, typer.Option("--to", formats=TIMES, help="Where these end; UTC.")] = None,
    history: Annotated[Path, typer.Option(help="Where reports are kept.")] = STATE / "monitoring" / "history.jsonl",
    ui: Annotated[
        bool, typer.Option("--ui", help="Then write all looks to a workspace of Evidently, and serve its UI.")
    ] = False,
    ui_port: Annotated[int, typer.Option(help="Where that listens, on this machine alone.")] = 8650,
    machine: Machine = False,
) -> None:
    """Judge the windows of traffic since the last time, and exit with 5 while an alarm stands.

    Beside the history lies `index.html`, the page of all looks. Past windows are kept with their own time; they start
    no retraining.

    Example: `embedline monitor`
    """
    from components.config import PARAMETERS, read_section
    from components.monitoring.config import Monitoring
    from monitoring.report import read_history
    from monitoring.watch import PAGE, look, past_period

    if ui:
        from monitoring import evidently_runs  # before the look: it may not be installed
    settings = read_section(Path(PARAMETERS), Monitoring)
    known = _known(traffic, reference, healthy_since, healthy_until, settings.most)
    before, past = read_history(history), past_period(since, until)
    reports = [report for found in look(traffic, known, settings, history, before, past) for report in found]
    if machine:
        say([asdict(report) for report in reports])
    else:
        _show(reports)
        screen.print(f"All looks on one page: {history.with_name(PAGE)}")
    everything = sorted([*before, *reports], key=lambda report: report.until)
    if ui:
        runs = history.with_name("evidently")
        evidently_runs.write_runs(runs, everything)
        evidently_runs.serve(runs, ui_port)
    if any(report.verdict == "alarm" for report in everything if report.until == everything[-1].until):
        raise typer.Exit(ALARM_STANDS)


def _known(
    traffic: Path, bundle: Path, since: datetime | None, until: datetime | None, most: int
) -> Callable[[str], Known]:
    """Returns what gives the reference of a version: of its bundle, or of its requests in a healthy period."""
    from components.traffic import read_window
    from monitoring.reference import Known, bundle_known, of_own_bundle
    from monitoring.watch import past_period

    if (healthy := past_period(since, until)) is None:
        return of_own_bundle(bundle) if bundle == REFERENCE else lambda _: bundle_known(bundle)
    return lambda version: Known(read_window(traffic, healthy.since, healthy.until, version=version or None, most=most))


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

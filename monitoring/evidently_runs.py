"""Looks as runs of a workspace of Evidently, for those who watch their models there: `embedline monitor --ui`.

A run holds what our tests found, not what Evidently's would: by default these alarm on identical data.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import EmbedlineError, UsageError
from monitoring.report import WHOLE, WindowReport

try:
    import pandas as pd
    from evidently import Dataset, Report
    from evidently.core.metric_types import SingleValueCalculation, SingleValueMetric
    from evidently.core.report import Context
    from evidently.sdk.models import DashboardModel, DashboardPanelPlot, DashboardTabModel, PanelMetric
    from evidently.sdk.panels import line_plot_panel
    from evidently.tests import lt
    from evidently.ui.service.app import get_config, run
    from evidently.ui.workspace import Project, Workspace
except ImportError as error:
    raise UsageError("Evidently is not installed", "Install it with: pip install 'embedline[evidently]'") from error

if TYPE_CHECKING:
    from evidently.core.metric_types import SingleValue

HOST = "127.0.0.1"
PROJECT, TAB = "Embedline", "Looks"
SHOWN = 400
"""How many windows, the last ones, are written."""
EVIDENCE, P, REQUESTS = "evidence", "p", "requests"
LOOK = "look"


class Statistic(SingleValueMetric):
    """What a look found of a slice: the effect of a test, or one of `EVIDENCE`, `P` and `REQUESTS` of the whole."""

    slice: str
    statistic: str


class StatisticCalculation(SingleValueCalculation[Statistic]):
    """Reads the statistic from a table of one row, which has a column for each."""

    def calculate(self, context: Context, current_data: Dataset, reference_data: Dataset | None) -> SingleValue:
        return self.result(float(current_data.column(self.display_name()).data.iloc[0]))

    def display_name(self) -> str:
        return named(self.metric.slice, self.metric.statistic)


def named(name: str, statistic: str) -> str:
    return f"{name}: {statistic}"


def statistics(report: WindowReport) -> dict[tuple[str, str], float]:
    """Returns all that is shown of a look, by slice and statistic."""
    whole = {EVIDENCE: report.evidence, P: report.p, REQUESTS: float(report.count)}
    return {
        **{(WHOLE, name): value for name, value in whole.items()},
        **{(finding.slice, finding.test): finding.effect for finding in report.findings},
    }


def write_runs(folder: Path, reports: Sequence[WindowReport]) -> int:
    """Adds a run for each of the last `SHOWN` reports that has none yet, and returns how many."""
    shown = sorted(reports, key=lambda report: report.until)[-SHOWN:]
    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.create(str(folder))
    project = next(iter(workspace.search_project(PROJECT)), None) or workspace.create_project(PROJECT)
    runs = (workspace.get_run(project.id, run) for run in workspace.list_runs(project.id))
    there = {found.metadata.get(LOOK) for found in runs if found}
    new = [report for report in shown if identity(report) not in there]
    for report in new:
        add(workspace, project, report)
    workspace.save_dashboard(project.id, dashboard(shown))
    return len(new)


def identity(report: WindowReport) -> str:
    return f"{report.since}-{report.until}-{report.version}"


def add(workspace: Workspace, project: Project, report: WindowReport) -> None:
    """Adds the run of a report; evidence that reaches the limit fails its test."""
    found = statistics(report)
    limits: dict[tuple[str, str], Any] = {(WHOLE, EVIDENCE): [lt(report.limit)]}
    metrics = [Statistic(slice=name, statistic=what, tests=limits.get((name, what))) for name, what in found]
    row = pd.DataFrame([{named(*key): value for key, value in found.items()}])
    ended = datetime.fromtimestamp(report.until, UTC)
    version = report.version or "all versions"
    snapshot = Report(metrics).run(
        Dataset.from_pandas(row), None, timestamp=ended, tags=[report.verdict, f"version {version}"],
        metadata={LOOK: identity(report), "version": version, "verdict": report.verdict},
        name=f"{ended:%Y-%m-%d %H:%M}, version {version}: {report.verdict}",
    )  # fmt: skip
    workspace.add_run(project.id, snapshot)


def dashboard(reports: Sequence[WindowReport]) -> DashboardModel:
    """Returns a panel for each statistic, with a line for each slice."""
    slices: dict[str, list[str]] = {}
    for name, statistic in dict.fromkeys(key for report in reports for key in statistics(report)):
        slices.setdefault(statistic, []).append(name)
    panels = [panel(statistic, names) for statistic, names in slices.items()]
    tab = DashboardTabModel(title=TAB, panels=[each.id for each in panels])
    return DashboardModel(tabs=[tab], panels=panels)


def panel(statistic: str, slices: Sequence[str]) -> DashboardPanelPlot:
    values = [
        PanelMetric(legend=name, metric=Statistic.__name__, metric_labels={"slice": name, "statistic": statistic})
        for name in slices
    ]
    return line_plot_panel(statistic.replace("_", " "), values, size="half")


def serve(folder: Path, port: int) -> None:
    """Serves Evidently's UI of the workspace on the loopback until Ctrl-C. Raises `EmbedlineError` if the port is in
    use."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise EmbedlineError(
                f"port {port}, wanted for Evidently's UI, cannot be used: {error.strerror}", "Name another: --ui-port."
            ) from error
    run(get_config(host=HOST, port=port, workspace=str(folder)))

"""Watching: windows of traffic judged, alarms sent to people, and a retraining asked for when a policy says so."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.events import emit_event

from components import config as configuration
from components.monitoring.config import Monitoring
from components.workspace import BUNDLE, STATE, TRAFFIC
from monitoring.alert import alert
from monitoring.policies import reason_to_retrain
from monitoring.reference import of_own_bundle
from monitoring.report import ALARM, WindowReport, last_before, read_history
from monitoring.watch import HISTORY, look, past_period
from serving import events

RETRAIN = "embedline.retrain.wanted"
RESOURCE = {"prefect.resource.id": "embedline.model.champion"}


@flow(name="monitor", description="Judges the windows of traffic since the last time.")
def monitor(
    parameters: Path = Path(configuration.PARAMETERS), since: datetime | None = None, until: datetime | None = None
) -> str | None:
    """Returns why a retraining was asked for, None if none was.

    With `since` or `until` (UTC where they name no zone) past windows are judged that were not yet: they are kept with
    their own time, nobody is alerted, and no retraining is asked for. Raises as `look` does. Nothing is judged before
    there is traffic.
    """
    if not TRAFFIC.is_dir():
        get_run_logger().info("no traffic has been recorded yet")
        return None
    settings = configuration.read_section(parameters, Monitoring)
    known = of_own_bundle(BUNDLE / "reference.npz")
    history = read_history(HISTORY)
    past = past_period(since, until)
    for reports in look(TRAFFIC, known, settings, HISTORY, list(history), past):
        for report in reports:
            publish(report, last_before(history, report.version, report.since), settings)
        history += reports
    return None if past else ask_for_retraining(settings, [report for report in history if not report.backfilled])


def publish(report: WindowReport, before: WindowReport | None, settings: Monitoring) -> None:
    """Leaves the findings as an artifact; an alarm is an event and is sent to people, and so is quality that fell since
    the window `before` of the same version, whether or not requests have shifted."""
    rows = [
        {key: value for key, value in asdict(finding).items() if key != "detail"} for finding in report.findings[:20]
    ]
    create_table_artifact(rows, key="drift", description=f"version {report.version}: {report.verdict}")
    get_run_logger().info("version %s, %d requests: %s", report.version, report.count, report.verdict)
    if report.backfilled:
        return
    if report.quality and report.harm and not (before and before.harm):
        fell = report.quality
        what = f"{fell.measure} fell from {fell.reference:.3f} to {fell.window:.3f} over {fell.answers} answers"
        events.record(STATE, "quality_fell", version=report.version, until=report.until, **asdict(fell))
        alert(settings, f"Embedline: quality fell, version {report.version}", what)
    if report.verdict == ALARM and report.raised:
        moved = ", ".join(f"{finding.slice}, {finding.test}" for finding in report.findings[:3])
        events.record(STATE, "drift_alarm", version=report.version, until=report.until, p=report.p, moved=moved)
        alert(settings, f"Embedline: drift alarm, version {report.version}", f"{report.count} requests: {moved}")


def ask_for_retraining(settings: Monitoring, history: list[WindowReport]) -> str | None:
    """Emits the event that starts a retraining if the policy says so; it counts as done from then on."""
    if settings.retrain is None:
        return None
    asked = [
        datetime.fromisoformat(event["time"]).timestamp()
        for event in events.read_events(STATE)
        if event["kind"] == "retrain_wanted"
    ]
    reason = reason_to_retrain(settings.policies[settings.retrain], history, asked)
    if reason:
        events.record(STATE, "retrain_wanted", reason=reason, policy=settings.retrain)
        emit_event(RETRAIN, resource=RESOURCE, payload={"reason": reason, "policy": settings.retrain})
        get_run_logger().warning("a retraining is asked for: %s", reason)
    return reason

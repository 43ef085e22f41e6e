"""Approval: a form in Prefect's UI, which a person fills in for a candidate that has passed both gates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from prefect import flow, get_run_logger
from prefect.events import emit_event
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from components import config as configuration
from components.export.config import Serving
from components.registry import Verdict, approval, tracking
from components.registry.models import Roles
from components.registry.tracking import Tracking
from serving.roles import decide

APPROVAL = "embedline.approval.wanted"
"""The event that starts this flow (`flows.schedule.automate`)."""
Words = Annotated[str, Field(pattern=r"\S")]


class Decision(RunInput):
    """What a person decides; the ledger keeps who and why."""

    decision: Literal["approve", "reject"]
    by: Words
    reason: Words


def ask_for_approval(tracked: Tracking, version: str, quality: Verdict, infrastructure: Verdict) -> None:
    """Makes a version wait, and emits the event that starts this flow where Prefect's server has the automation.

    Raises `Refused` unless both verdicts passed.
    """
    approval.ask(tracked, version, quality, infrastructure)
    emit_event(APPROVAL, resource={"prefect.resource.id": f"embedline.version.{version}"}, payload={"version": version})


@flow(name="approve", description="Shows what both gates said of a candidate, and waits for a person's decision.")
def approve(version: str, parameters: Path = Path(configuration.PARAMETERS)) -> Roles:
    """Returns the roles after the decision. No process waits: the run is suspended, and begins again with the form.

    Raises as `components.registry.approval.approve` does.
    """
    tracked = tracking.prepare(Path())
    form = Decision.with_initial_data(description=described(version, *approval.verdicts(tracked, version)))
    given = suspend_flow_run(wait_for_input=form, timeout=None, key="decision")
    settings = configuration.read_section(parameters, Serving)
    roles = decide(tracked, version, given.decision == "reject", given.by, given.reason, settings.servers)
    get_run_logger().info("version %s: %s by %s. Roles: %s", version, given.decision, given.by, roles)
    return roles


def described(version: str, quality: Verdict, infrastructure: Verdict) -> str:
    """Returns what the form says above its fields, in Markdown."""
    measured = "\n".join(f"* {row['name']}: {row['value']}" for row in infrastructure.table)
    return f"**Version {version}** has passed both gates. {quality.sentence}.\n\n{measured}"

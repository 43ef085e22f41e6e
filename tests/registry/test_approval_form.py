"""The form in Prefect: a real server suspends the run, takes the form, refuses an incomplete one, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.testing.utilities import prefect_test_harness

from components.registry import approval, models, promotion
from flows.approve import approve
from tests.registry.conftest import Line
from tests.registry.test_approval import PARAMETERS, candidate

pytestmark = pytest.mark.slow  # a server of Prefect's


@pytest.fixture
def client() -> Iterator[SyncPrefectClient]:
    with prefect_test_harness(server_startup_timeout=120), get_client(sync_client=True) as client:
        yield client


def suspended(client: SyncPrefectClient, version: str) -> UUID:
    """Starts the flow as a deployment's run, and returns the run once it waits for the form."""
    deployment = client.create_deployment(client.create_flow(approve), "form")
    run = client.create_flow_run_from_deployment(deployment, parameters={"version": version})
    go_on(client, run.id)
    state = client.read_flow_run(run.id).state
    assert state is not None and state.is_paused() and state.name == "Suspended"
    return run.id


def go_on(client: SyncPrefectClient, run: UUID) -> None:
    """Does what a worker does with a run that is scheduled."""
    scheduled = client.read_flow_run(run)
    with suppress(Pause):
        run_flow(approve, flow_run=scheduled, parameters=scheduled.parameters)


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_the_form_decides(
    client: SyncPrefectClient, line: Line, monkeypatch: pytest.MonkeyPatch, decision: str
) -> None:
    line.promote(1, None)
    version = candidate(line, 2, 1)
    (line.tracking.root / "params.yaml").write_text(PARAMETERS.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(line.tracking.root)
    run = suspended(client, version)
    assert approval.waiting(line.tracking) == [version]
    given: dict[str, Any] = {"decision": decision, "by": "Ada", "reason": "the flags"}
    for wrong in ({**given, "decision": "perhaps"}, {**given, "by": " "}, {"decision": decision}):
        assert client.resume_flow_run(run, run_input=wrong).status == "REJECT"
    assert client.resume_flow_run(run, run_input=given).status == "ACCEPT"
    go_on(client, run)
    assert approval.waiting(line.tracking) == []
    assert models.role(line.tracking, "champion") == (version if decision == "approve" else "1")
    assert "d by Ada: the flags" in promotion.history(line.tracking)[-1].reason

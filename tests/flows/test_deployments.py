"""prefect.yaml: every deployment has a flow to import, parameters that this takes, and schedules that are some."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule

from components.errors import UsageError
from flows.deploy import deploy
from flows.schedule import AUTOMATIONS

ROOT = Path(__file__).parents[2]
DEPLOYMENTS: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
WANTED = {"ingest", "retrain", "deploy", "approve", "monitor", "golden-queries", "heartbeat"}


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    file, _, name = deployment["entrypoint"].partition(":")
    assert (ROOT / file).is_file(), file
    found = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(found, Flow)
    return found


def name_of(deployment: dict[str, Any]) -> str:
    return str(deployment["entrypoint"])


def test_every_flow_that_runs_by_itself_is_deployed_once() -> None:
    names = [flow_of(deployment).name for deployment in DEPLOYMENTS]
    assert sorted(names) == sorted(WANTED)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=name_of)
def test_its_parameters_are_those_of_the_flow_and_its_schedules_have_a_time_zone(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    by_event = {each[3]: "" for each in AUTOMATIONS if each[2] == f"{flow.name}/{deployment['name']}"}
    given = by_event | deployment.get("parameters", {})
    assert set(given) <= set(flow.parameters.properties)
    assert flow.validate_parameters(given).items() >= given.items()
    for schedule in deployment.get("schedules", []):
        assert schedule["timezone"]
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])
    assert deployment["work_pool"]["name"] == "embedline"


def test_a_schedule_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="cron"):
        CronSchedule(cron="61 * * * *", timezone="UTC")


@pytest.mark.parametrize(("deployment", "parameter"), [each[2:] for each in AUTOMATIONS])
def test_an_automation_gives_the_deployment_that_it_starts_a_parameter_that_this_has(
    deployment: str, parameter: str
) -> None:
    (started,) = [each for each in DEPLOYMENTS if f"{flow_of(each).name}/{each['name']}" == deployment]
    assert parameter in flow_of(started).parameters.properties


@pytest.mark.parametrize(
    ("given", "problem"), [((3, 0.1, 0.2), "a canary or a shadow"), ((), "there is no champion to deploy")]
)
def test_a_deployment_that_cannot_be_is_refused(
    given: tuple[Any, ...], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match=problem):
        deploy.fn(*given)

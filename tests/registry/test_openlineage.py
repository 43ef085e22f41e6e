"""What a collector of OpenLineage events is sent of a round: real runs of MLflow, a real HTTP server that keeps it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from components import config as configuration
from components.errors import EmbedlineError, UsageError
from components.registry import ancestry, openlineage, tracking
from components.registry.config import Registry
from components.registry.tracking import Run, Tracking
from flows import retrain
from tests.loopback import Collector, collecting
from tests.registry.conftest import REPOSITORY
from tests.registry.test_ancestry import run_stage

DATA, TEACHER, STUDENT = "d1" * 16 + ".dir", "7e" * 16 + ".dir", "51" * 16 + ".dir"
CODE = {"path": "components/embedder/runtime.py", "md5": "c0" * 16}
LOCK = {
    "teacher": {
        "deps": [{"path": "data", "md5": DATA}, CODE],
        "outs": [{"path": "artifacts/teacher", "md5": TEACHER}],
    },
    "distill": {
        "deps": [{"path": "data", "md5": DATA}, {"path": "artifacts/teacher", "md5": TEACHER}, CODE],
        "outs": [{"path": "artifacts/student", "md5": STUDENT}],
    },
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as kept:
        yield kept


@pytest.fixture
def round_(server: Tracking) -> Run:
    begun = tracking.start_round(server, {}, {"data": DATA, "git_commit": "a" * 40, "reason": "an alarm"})
    run_stage(begun, "teacher")
    run_stage(begun, "distill")
    begun.tag(ancestry.round_tags("4", False, "lock", {"artifacts/student": STUDENT}))
    tracking.end_round(begun, succeeded=True)
    return begun


def versions(entries: list[dict[str, Any]]) -> dict[str, str]:
    return {entry["name"]: entry["facets"]["version"]["datasetVersion"] for entry in entries}


def test_a_collector_gets_the_round_and_its_stages_with_what_they_took_and_made(
    collector: Collector, round_: Run
) -> None:
    openlineage.send(collector.url, openlineage.events(round_.tracking, round_.run_id, LOCK))
    assert {post.path for post in collector.posts} == {"/api/v1/lineage"}
    sent = [json.loads(post.body) for post in collector.posts]
    assert [(event["job"]["name"], event["eventType"]) for event in sent] == [
        ("retrain", "START"),
        ("retrain.teacher", "START"),
        ("retrain.teacher", "COMPLETE"),
        ("retrain.distill", "START"),
        ("retrain.distill", "COMPLETE"),
        ("retrain", "COMPLETE"),
    ]
    assert versions(sent[4]["inputs"]) == {"data": DATA, "artifacts/teacher": TEACHER}
    assert versions(sent[4]["outputs"]) == {"artifacts/student": STUDENT}
    assert versions(sent[5]["inputs"]) == {"data": DATA}
    assert versions(sent[5]["outputs"]) == {"embedline-embedder": "4"}
    assert sent[5]["run"]["runId"].replace("-", "") == round_.run_id
    assert sent[4]["run"]["facets"]["parent"]["run"]["runId"] == sent[5]["run"]["runId"]
    tags = {tag["key"]: tag["value"] for tag in sent[5]["run"]["facets"]["tags"]["tags"]}
    assert tags["git_commit"] == "a" * 40 and tags["reason"] == "an alarm" and tags["dvc_lock_sha256"] == "lock"


def test_a_stage_that_reused_what_an_earlier_round_made_did_not_run(round_: Run) -> None:
    producer = tracking.producing_run(round_.tracking.root, "teacher")
    again = tracking.start_round(round_.tracking, {}, {"data": DATA})
    run_stage(again, "teacher", producer)
    tracking.end_round(again, succeeded=True)
    assert [event.job.name for event in openlineage.events(round_.tracking, again.run_id, LOCK)] == [
        "retrain",
        "retrain",
    ]


def test_a_failed_stage_made_nothing_and_its_round_no_version(round_: Run) -> None:
    failed = tracking.start_round(round_.tracking, {}, {"data": DATA})
    with pytest.raises(RuntimeError), tracking.stage_run(failed, "distill"):
        raise RuntimeError("no space left")
    tracking.end_round(failed, succeeded=False)
    events = openlineage.events(round_.tracking, failed.run_id, LOCK)
    ended = [event for event in events if event.eventType is not openlineage.RunState.START]
    assert [(event.job.name, event.eventType.value, event.outputs) for event in ended if event.eventType] == [
        ("retrain.distill", "FAIL", []),
        ("retrain", "FAIL", []),
    ]


def test_the_key_comes_from_the_environment(collector: Collector, round_: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key-7")
    openlineage.send(collector.url, openlineage.events(round_.tracking, round_.run_id, LOCK))
    assert {post.authorization for post in collector.posts} == {"Bearer key-7"}


def test_a_collector_that_refuses_is_an_error_of_ours(collector: Collector, round_: Run) -> None:
    collector.status = 403
    with pytest.raises(EmbedlineError, match=r"registry.openlineage: http://.* does not take events: 403"):
        openlineage.send(collector.url, openlineage.events(round_.tracking, round_.run_id, LOCK))


def test_a_missing_package_is_named_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configuration.read(REPOSITORY / configuration.PARAMETERS)
    monkeypatch.setattr(retrain, "find_spec", lambda _: None)
    retrain.require_openlineage(settings)
    asked = settings.model_copy(update={"registry": Registry(openlineage="http://marquez:5000")})
    with pytest.raises(UsageError, match="needs a package that is missing") as caught:
        retrain.require_openlineage(asked)
    assert "embedline[openlineage]" in caught.value.remedy

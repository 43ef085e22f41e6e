"""The line from end to end, as its users run it: once, again, with a change, and with what can go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.registry import evidence, tracking
from components.stages import STAGES
from tests.loopback import collecting

from .conftest import Line

pytestmark = pytest.mark.system


@pytest.mark.slow
def test_a_round_promotes_and_the_next_repeats_nothing(fresh_line: Line) -> None:
    line = fresh_line
    first = line.answer("run")
    assert first["repeated"] == list(STAGES)
    assert first["roles"]["champion"] == first["version"] == "1"
    lineage = json.loads((line.root / "artifacts" / "lineage.json").read_text(encoding="utf-8"))
    assert lineage["model_version"] == lineage["triton_version"] == "1"
    assert set(lineage["stage_runs"]) == set(STAGES)
    assert all(lineage[name] for name in ("git_commit", "data_hash", "dvc_lock_sha256", "flow_run", "round_run"))

    second = line.answer("run")
    assert (second["repeated"], second["version"], second["roles"]) == ([], "1", first["roles"])

    with collecting() as collector:
        line.change(serving={"max_batch_size": 32}, registry={"openlineage": collector.url})
        third = line.answer("run")
    events = [json.loads(post.body) for post in collector.posts]
    ended = {event["job"]["name"] for event in events if event["eventType"] == "COMPLETE"}
    assert ended == {"retrain", "retrain.package"}, "the collector is away from here on, which stops no round"
    assert third["repeated"] == ["package"]
    assert third["roles"] == {"champion": "2", "challenger": None, "previous": "1"}
    kept = evidence.require(tracking.prepare(line.root), "2")
    assert kept.quality.against and set(kept.carried) == set(evidence.CARRIED), "what other environments ask for"

    found = line.answer("search", "a sad cat")
    scores = [hit["score"] for hit in found["hits"]]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    assert all(Path(line.root, hit["image_path"]).is_file() for hit in found["hits"])
    image = found["hits"][0]["image_path"]
    assert line.answer("search", "--image", image)["hits"][0]["score"] == pytest.approx(1, abs=0.01)

    assert line.answer("rollback", "--reason", "test")["champion"] == "1"
    unchanged = line.call("run")
    assert unchanged.returncode == 3, "an unchanged round would bring back what was rolled back"
    assert "was rolled back" in unchanged.stderr

    line.change(serving={"max_batch_size": 16}, promotion={"floors": {"overall": 0.99}})
    refused = line.call("run")
    assert refused.returncode == 3, refused.stderr
    assert "overall" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ({"dimensions": 3}, "did you mean 'dimension'?"),
        pytest.param({"text": {"model": "no/such-model"}}, "HF_HUB_OFFLINE=0", marks=pytest.mark.slow),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_built(
    fresh_line: Line, backbone: dict[str, object], said: str
) -> None:
    fresh_line.change(teacher={"backbone": backbone})
    demand_refusal(fresh_line, 2, said)
    assert not (fresh_line.root / "data").exists()


@pytest.mark.slow
def test_data_that_are_not_fit_end_in_a_message_and_its_exit_code(line: Line) -> None:
    line.change(validation={"min_train_rows": 10_000_000})
    demand_refusal(line, 4, "enough training rows")


def demand_refusal(line: Line, code: int, said: str) -> None:
    failed = line.call("run")
    assert failed.returncode == code, failed.stdout + failed.stderr
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr

"""Lineage forward and back, over real runs and versions: two rounds, the second reuses a stage of the first."""

import json
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from cli.main import app
from components.errors import UsageError
from components.registry import ancestry, models, promotion, tracking
from components.registry.ancestry import Node, trace
from components.registry.tracking import Run, Tracking

DATA, TEACHER, STUDENTS, COMMITS = "d1" * 16 + ".dir", "7e" * 16 + ".dir", ("51" * 16, "52" * 16), ("a" * 40, "ab" * 20)


@dataclass
class Rounds:
    """Two rounds on the same data and teacher, each with its own commit, student and version."""

    tracking: Tracking
    rounds: list[str]
    stages: dict[str, list[str]]

    @property
    def records(self) -> ancestry.Records:
        return ancestry.read(self.tracking, promotion.history(self.tracking), [2])


def run_stage(round_: Run, stage: str, producer: str | None = None) -> str:
    """Returns the run that made the outputs: this one, unless an earlier one is named."""
    with tracking.stage_run(round_, stage) as run:
        tracking._write_producing_run(round_.tracking.root, stage, producer or run.run_id)
    return producer or run.run_id


@pytest.fixture
def kept(server: Tracking) -> Rounds:
    found = Rounds(server, [], {"teacher": [], "distill": []})
    models._create_model(server)
    for number, (commit, student) in enumerate(zip(COMMITS, STUDENTS, strict=True), start=1):
        tags = {"data": DATA, "git_commit": commit, "flow_run": f"flow-{number}"}
        round_ = tracking.start_round(server, {"teacher": {"steps": 7}}, tags)
        found.rounds.append(round_.run_id)
        found.stages["teacher"].append(run_stage(round_, "teacher", *found.stages["teacher"][:1]))
        found.stages["distill"].append(run_stage(round_, "distill"))
        known = {**tags, "fingerprint": f"bundle-{number}", "overall": "0.5"}
        server.client.create_model_version(models.MODEL, "file:///none", run_id=round_.run_id, tags=known)
        outputs = {"artifacts/teacher": TEACHER, "artifacts/student": student}
        round_.tag(ancestry.round_tags(str(number), number == 2, f"lock-{number}", outputs))
        round_.log_metrics({"parity_cosine": 0.99})
        tracking.end_round(round_, succeeded=True)
        promotion.nominate(server, str(number))
    return found


def names(nodes: object) -> list[tuple[str, str]]:
    assert isinstance(nodes, list)
    return [(node.kind, node.name) for node in nodes]


def only(nodes: object) -> Node:
    ((node),) = nodes if isinstance(nodes, list) else []
    assert isinstance(node, Node)
    return node


def test_a_version_is_traced_back_to_code_data_and_the_runs_that_made_it(kept: Rounds) -> None:
    node = trace(kept.records, "2")
    assert node.facts["fingerprint"] == "bundle-2" and node.facts["measured"] == {"parity_cosine": 0.99}
    assert node.facts["served"] is True and trace(kept.records, "1").facts["served"] is False
    (played,) = node.facts["played"]
    assert played.startswith("challenger since ") and played.endswith("(nominate)")
    round_ = only(node.made_from)
    assert round_.facts["parameters"] == {"teacher.steps": "7"}
    assert round_.facts["artifacts"] == {"artifacts/teacher": TEACHER, "artifacts/student": STUDENTS[1]}
    assert names(round_.made_from) == [
        ("commit", COMMITS[1]),
        ("data set", DATA),
        ("stage run", kept.stages["teacher"][0]),  # the first round made what the second one used
        ("stage run", kept.stages["distill"][1]),
    ]
    assert "difference" in round_.made_from[0].facts, "the code was not that of the commit"
    assert "difference" not in only(trace(kept.records, "1").made_from).made_from[0].facts


@pytest.mark.parametrize(
    ("name", "rounds"),
    [(DATA, (0, 1)), (TEACHER, (0, 1)), (STUDENTS[1], (1,)), (COMMITS[0], (0,)), ("lock-1", (0,)), ("d1d1d1", (0, 1))],
)
def test_what_was_made_is_found_from_data_code_and_artifacts(kept: Rounds, name: str, rounds: tuple[int, ...]) -> None:
    found = trace(kept.records, name).led_to
    assert names(found) == [("round", kept.rounds[number]) for number in rounds]
    assert [names(round_.led_to) for round_ in found] == [[("version", str(number + 1))] for number in rounds]


def test_a_stage_run_leads_to_every_round_that_used_it(kept: Rounds) -> None:
    teacher = trace(kept.records, kept.stages["teacher"][0])
    assert teacher.facts["stage"] == "teacher" and len(teacher.led_to) == 2
    assert names(trace(kept.records, kept.stages["distill"][1]).led_to) == [("round", kept.rounds[1])]
    assert names(trace(kept.records, kept.rounds[0]).led_to) == [("version", "1")]


def test_what_is_unknown_or_ambiguous_says_so(kept: Rounds) -> None:
    for name, said in (("9", "there is no version 9"), ("d1d1", "no round has"), ("abcdef0", "no round has")):
        with pytest.raises(UsageError, match=said):
            trace(kept.records, name)
    kept.tracking.client.set_tag(kept.rounds[1], "git_commit", "aaaaaab")
    with pytest.raises(UsageError, match="names several things: commit a"):
        trace(kept.records, "aaaaaa")


def test_the_command_shows_a_tree_and_json(kept: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept.tracking.root)
    answer = json.loads(CliRunner().invoke(app, ["lineage", "1", "--json"]).stdout)
    assert answer["made_from"][0]["name"] == kept.rounds[0] and answer["facts"]["served"] is None
    shown = CliRunner().invoke(app, ["lineage", "1"], env={"COLUMNS": "200"}).stdout
    for said in ("version 1", f"commit {COMMITS[0]}", f"data set {DATA}", "stage: distill", "challenger since"):
        assert said in shown, shown


def test_a_stage_took_what_its_last_real_run_did(kept: Rounds) -> None:
    taken = tracking.stage_seconds(kept.tracking)
    for stage, run in (("teacher", kept.stages["teacher"][0]), ("distill", kept.stages["distill"][1])):
        info = kept.tracking.client.get_run(run).info
        assert taken[stage] == (info.end_time - info.start_time) / 1000, "a reused stage took no time of its own"
    assert taken.keys() == {"teacher", "distill"}

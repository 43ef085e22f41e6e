"""The plan of a real DVC repository, against what `dvc repro` then does."""

import subprocess
from pathlib import Path

import pytest
import yaml

from components import lineage
from components.lineage import Planned, Reason, changed_values, plan

pytestmark = pytest.mark.system("git")

ORDER = ("first", "second")


@pytest.fixture
def done(workspace: Path) -> Path:
    """The workspace with a second stage, which copies what the first one makes; both are up to date."""
    pipeline = yaml.safe_load((workspace / "dvc.yaml").read_text())
    pipeline["stages"]["second"] = {
        "cmd": "cp artifacts/first artifacts/second", "deps": ["artifacts/first"], "outs": ["artifacts/second"],
    }  # fmt: skip
    (workspace / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    (workspace / "params.yaml").write_text("first: {steps: 1, losses: [{name: a, weight: 1}, {name: b}], rate: 0.5}\n")
    assert [each.reasons[0].change for each in plan(workspace, ORDER)] == ["has never finished here"] * 2
    for stage in ORDER:
        lineage.reproduce(workspace, stage)
    assert plan(workspace, ORDER) == []
    return workspace


def test_a_parameter_is_shown_with_both_values_and_what_follows_is_uncertain(done: Path) -> None:
    (done / "params.yaml").write_text("first: {steps: 2, losses: [{name: a, weight: 3}, {name: b}], new: x}\n")
    before = {path: path.read_bytes() for path in done.glob("*.*") if path.is_file()}
    first, second = plan(done, ORDER)
    assert first == Planned(
        "first",
        True,
        (
            Reason("first.steps", "parameter", 1, 2),
            Reason("first.losses.0.weight", "parameter", 1, 3),
            Reason("first.rate", "parameter", 0.5, None),
            Reason("first.new", "parameter", None, "x"),
        ),
    )
    assert second == Planned("second", False, (Reason("artifacts/first", "would be made anew by stage first"),))
    assert {path: path.read_bytes() for path in done.glob("*.*") if path.is_file()} == before, "a plan changes nothing"
    assert lineage.reproduce(done, "first").ran and not lineage.reproduce(done, "second").ran, "the same came out"
    assert plan(done, ORDER) == []


def test_a_file_an_output_and_a_command_are_reasons_of_their_stage_alone(done: Path) -> None:
    (done / "artifacts" / "second").unlink()
    assert plan(done, ORDER) == [Planned("second", True, (Reason("artifacts/second", "output deleted"),))]
    pipeline = (done / "dvc.yaml").read_text()
    (done / "dvc.yaml").write_text(pipeline.replace("cp artifacts", "cp -f artifacts"))
    assert Reason("command", "changed") in plan(done, ORDER)[0].reasons
    (done / "first.py").write_text((done / "first.py").read_text() + "\n")
    assert [each.stage for each in plan(done, ORDER)] == list(ORDER)
    assert plan(done, ORDER)[0].reasons == (Reason("first.py", "modified"),)


def test_a_data_set_to_be_built_makes_what_depends_on_it_uncertain(done: Path) -> None:
    first, second = plan(done, ORDER, {"data": [Reason("corpus.seed", "parameter", 0, 1)]})
    assert not first.certain and first.reasons == (Reason("data", "would be made anew by the data set"),)
    assert not second.certain
    (chosen, _) = plan(done, ORDER, {"first": [Reason("components/x.py", "newly chosen")]})
    assert chosen.certain


def test_a_folder_that_is_no_workspace_yet_is_planned_and_stays_none(tmp_path: Path, workspace: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / "fresh").mkdir(exist_ok=True)
        (tmp_path / "fresh" / name).write_bytes((workspace / name).read_bytes())
    assert [each.stage for each in plan(tmp_path / "fresh", ("first",))] == ["first"]
    assert sorted(path.name for path in (tmp_path / "fresh").iterdir()) == ["dvc.yaml", "params.yaml"]


def test_values_are_compared_one_by_one() -> None:
    assert list(changed_values("a", {"b": [1, 2]}, {"b": [1, 2]})) == []
    assert list(changed_values("a", [1], [1, 2])) == [Reason("a", "parameter", [1], [1, 2])]
    assert list(changed_values("a", None, {"b": 1})) == [Reason("a", "parameter", None, {"b": 1})]


def test_the_plan_of_this_checkout_names_every_stage() -> None:
    root = Path(__file__).parents[2]
    said = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True).stdout
    from components.config import read
    from components.stages import STAGES
    from components.stages.plan import plan as planned

    found = planned(root, read(root / "params.yaml"))
    assert {each.stage for each in found.stages} <= set(STAGES)
    assert found.gates["margin"] == 0.01 and found.gates["floors"] == {"overall": 0.2}
    again = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    assert again.stdout == said

"""A candidate that passed both gates waits for a person, whose name and reason the ledger keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from components.errors import EmbedlineError, Refused, UsageError
from components.registry import approval, models, promotion
from tests.registry.conftest import Line

PARAMETERS = Path(__file__).parents[2] / "params.yaml"


def candidate(line: Line, number: int, champion: int | None) -> str:
    """Registers, nominates and blesses a version, which then waits."""
    version = line.register(number)
    promotion.nominate(line.tracking, version)
    approval.ask(line.tracking, version, *line.verdicts(number, champion))
    return version


def test_whoever_approves_is_in_the_ledger_with_the_reason(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.promote(1, None)
    version = candidate(line, 2, 1)
    assert approval.waiting(line.tracking) == [version] and models.role(line.tracking, "champion") == "1"
    (line.tracking.root / "params.yaml").write_text(PARAMETERS.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(line.tracking.root)
    said = CliRunner().invoke(app, ["approve", version, "--by", "Ada", "--reason", "flags are right", "--json"])
    assert json.loads(said.stdout) == {"champion": version, "challenger": None, "previous": "1"}
    last = promotion.history(line.tracking)[-1]
    assert (last.action, last.state) == ("promote", "done") and len(last.verdicts) == 2
    assert last.reason.startswith("approved by Ada: flags are right. ")
    assert approval.waiting(line.tracking) == []
    with pytest.raises(UsageError, match="waits for nobody's approval"):
        approval.approve(line.tracking, version, "Ada", "again")


def test_what_was_rejected_does_not_come_back(line: Line) -> None:
    line.promote(1, None)
    version = candidate(line, 2, 1)
    roles = approval.reject(line.tracking, version, "Ada", "wrong flags")
    assert roles == {"champion": "1", "challenger": None, "previous": None} == models.roles(line.tracking)
    assert promotion.history(line.tracking)[-1].reason == "rejected by Ada: wrong flags"
    with pytest.raises(Refused, match=rf"version {version} was rejected on .*: rejected by Ada: wrong flags"):
        promotion.nominate(line.tracking, version)


def test_nobody_approves_without_a_name_nor_what_does_not_wait(line: Line) -> None:
    line.promote(1, None)
    version = line.register(2)
    promotion.nominate(line.tracking, version)
    with pytest.raises(UsageError, match="waits for nobody's approval"):
        approval.approve(line.tracking, version, "Ada", "why not")
    with pytest.raises(Refused):
        approval.ask(line.tracking, version, *line.verdicts(0, 1))
    approval.ask(line.tracking, version, *line.verdicts(2, 1))
    with pytest.raises(UsageError, match="who decides and why is not said"):
        approval.approve(line.tracking, version, " ", "why not")
    line.promote(3, 1)
    with pytest.raises(UsageError, match="waits for nobody's approval"):
        approval.approve(line.tracking, version, "Ada", "it was overtaken")


def test_a_verdict_that_was_edited_while_the_version_waits_lets_nobody_in(line: Line) -> None:
    line.promote(1, None)
    version = candidate(line, 2, 1)
    for file in (line.tracking.root / promotion.VERDICTS).glob("*.json"):
        file.write_text(file.read_text().replace('"reasons": []', '"reasons": [ ]').replace("0.9", "0.8"))
    with pytest.raises(EmbedlineError, match="was changed"):
        approval.approve(line.tracking, version, "Ada", "why not")
    assert models.role(line.tracking, "champion") == "1"

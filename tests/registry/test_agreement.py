"""The three registries of truth: what each kind of disagreement is called, found in real ones, and ended."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from components.errors import EmbedlineError, Refused
from components.registry import models, promotion
from components.registry.agreement import disagreements, settled
from monitoring import doctor
from tests.registry.conftest import Line
from tests.registry.test_promotion import Killed


def test_what_agrees_says_nothing_and_each_disagreement_has_its_words(line: Line) -> None:
    line.promote(1, None)
    line.promote(2, 1)
    roles, entries = models.roles(line.tracking), promotion.history(line.tracking)
    assert settled(entries) == roles
    for loaded in (None, [1, 2], [2]):
        assert disagreements(roles, entries, loaded) == []
    (moved,) = disagreements(roles | {"champion": "7"}, entries, [2])
    assert moved.what == "MLflow calls version 7 the champion, the ledger 2" and "reconcile" in moved.remedy
    (unserved,) = disagreements(roles, entries, [])
    assert unserved.what == "the server answers by no version, champion is version 2"
    (higher,) = disagreements(roles, entries, [2, 3])
    assert higher.what == "the server answers by version 3, champion is version 2"
    pending = [*entries[:-1], replace(entries[-1], state="pending")]
    (unfinished,) = disagreements(roles, pending, [1])
    assert unfinished.what.startswith("the promote of version 2, begun ")
    assert settled(pending) == entries[-1].before
    assert disagreements(dict.fromkeys(models.ROLES), [], []) == []
    unseen: models.Roles = {"champion": "1", "challenger": None, "previous": None}
    (unrecorded,) = disagreements(unseen, [], None)
    assert unrecorded.what == "MLflow calls version 1 the champion, the ledger none"


def test_the_doctor_finds_an_alias_that_was_moved_by_hand_and_reconcile_moves_it_back(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = line.tracking.root
    monkeypatch.chdir(root)
    line.promote(1, None)
    assert doctor.roles(root).detail == "champion 1: MLflow, the ledger and what is served agree"
    worse = line.register(2)
    models.set_role(line.tracking, "champion", worse)
    finding = doctor.roles(root)
    assert not finding.ok and "MLflow calls version 2 the champion, the ledger 1" in finding.detail
    with pytest.raises(Refused, match="MLflow calls version 2 the champion, the ledger 1"):
        promotion.nominate(line.tracking, line.register(3))
    answer = json.loads(CliRunner().invoke(app, ["reconcile", "--json"]).stdout)
    assert answer["moved_back"] == {"champion": "2"} and answer["finished"] is None
    assert answer["roles"]["champion"] == models.role(line.tracking, "champion") == "1" and doctor.roles(root).ok
    assert "No change was open" in CliRunner().invoke(app, ["reconcile"]).stdout
    models.set_role(line.tracking, "champion", worse)
    line.tracking.client.delete_model_version(models.MODEL, "1")
    with pytest.raises(EmbedlineError, match="version 1, champion by the ledger, is gone"):
        promotion.restore_roles(line.tracking)
    assert models.role(line.tracking, "champion") == worse, "nothing was half restored"


def test_a_previous_version_that_was_deleted_stands_in_nobodys_way(line: Line) -> None:
    line.promote(1, None)
    line.promote(2, 1)
    line.tracking.client.delete_model_version(models.MODEL, "1")
    assert promotion.restore_roles(line.tracking) == {}
    assert line.promote(3, 2) == {"champion": "3", "challenger": None, "previous": "2"}


@pytest.mark.parametrize("gone", [False, True])
def test_reconcile_says_whether_a_killed_change_was_completed_or_undone(
    line: Line, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(line.tracking.root)
    line.promote(1, None)
    version = line.register(2)
    with monkeypatch.context() as patch:
        patch.setattr(models, "set_role", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            promotion.nominate(line.tracking, version)
    finding = doctor.roles(line.tracking.root)
    assert not finding.ok and "the nominate of version 2" in finding.detail and "reconcile" in finding.remedy
    if gone:
        line.tracking.client.delete_model_version(models.MODEL, version)
    said = CliRunner().invoke(app, ["reconcile"]).stdout
    assert ("is undone" if gone else "is completed") in said
    assert models.role(line.tracking, "challenger") == (None if gone else version)
    assert doctor.roles(line.tracking.root).ok


def test_the_doctor_speaks_of_a_ledger_that_was_cut(line: Line) -> None:
    line.promote(1, None)
    path: Path = line.tracking.root / ".embedline" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    finding = doctor.roles(line.tracking.root)
    assert not finding.ok and "line 4 is missing" in finding.detail


def test_the_doctor_speaks_where_the_database_is_lost_or_broken_and_makes_none(line: Line) -> None:
    line.promote(1, None)
    database: Path = line.tracking.root / ".embedline" / "mlflow.db"
    database.write_bytes(b"this is no database" * 100)
    assert "without MLflow's database" in doctor.roles(line.tracking.root).detail
    database.unlink()
    assert "a ledger, but no MLflow database" in doctor.roles(line.tracking.root).detail
    assert not database.exists()

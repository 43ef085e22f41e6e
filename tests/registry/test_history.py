"""Reigns of a real ledger: known times, known answers; what was changed in it is refused."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from cli.main import app
from components.errors import EmbedlineError, UsageError
from components.registry import ledger, promotion
from components.registry.history import during, period, reigns
from components.registry.ledger import Change, Entry
from components.registry.models import Roles
from components.registry.tracking import Tracking, find

NOBODY: Roles = {"champion": None, "challenger": None, "previous": None}
Write = Callable[..., Entry]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Adds lines to a real ledger, at times of our choice."""

    def add(when: str, action: ledger.Action, champion: str, before: str | None, state: ledger.State = "done") -> Entry:
        moment = datetime.fromisoformat(when).replace(tzinfo=UTC)
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "datetime", SimpleNamespace(now=lambda _: moment))
            change = Change(
                action, champion, "challenger", "champion", NOBODY | {"champion": before},
                NOBODY | {"champion": champion}, ["a" * 64] if action == "promote" else [], f"why {champion}",
            )  # fmt: skip
            return ledger.append(tmp_path / "ledger.jsonl", change, state)

    return add


@pytest.fixture
def entries(write: Write, tmp_path: Path) -> list[Entry]:
    write("2026-03-01T10:00", "promote", "1", None, "pending")
    write("2026-03-01T10:01", "promote", "1", None)
    write("2026-03-02T12:00", "promote", "2", "1")
    write("2026-03-02T18:00", "promote", "3", "2", "reverted")
    write("2026-03-03T12:00", "rollback", "1", "2")
    return ledger.verify(tmp_path / "ledger.jsonl")


def test_reigns_follow_one_another_and_say_why(entries: list[Entry]) -> None:
    first, second, third = reigns(entries)
    assert (first.version, second.version, third.version) == ("1", "2", "1"), "3 was reverted"
    assert first.since.startswith("2026-03-01T10:01"), "the line `done` says when"
    assert (first.until, second.until, third.until) == (second.since, third.since, None)
    assert (third.action, third.reason, third.verdicts) == ("rollback", "why 1", ())
    assert second.verdicts == ("a" * 64,)
    assert reigns([]) == []


@pytest.mark.parametrize(
    ("when", "versions"),
    [
        ("2026-02-28", []),
        ("2026-03-01", ["1"]),
        ("2026-03-01T10:00", []),
        ("2026-03-01T10:01:00+00:00", ["1"]),
        ("2026-03-02", ["1", "2"]),
        ("2026-03-02T11:59:59", ["1"]),
        ("2026-03-02T12:00", ["2"]),
        ("2026-03-02T13:00+01:00", ["2"]),
        ("2026-03-02T12:30+01:00", ["1"]),
        ("2026-03-03", ["2", "1"]),
        ("2026-03-04", ["1"]),
    ],
)
def test_a_day_or_a_moment_has_its_champions(entries: list[Entry], when: str, versions: list[str]) -> None:
    assert [reign.version for reign in during(reigns(entries), period(when))] == versions


def test_what_is_no_past_date_is_refused() -> None:
    for text in ("yesterday", "2026-13-01", "", "9999-12-31T25:00"):
        with pytest.raises(UsageError, match="is no date"):
            period(text)
    with pytest.raises(UsageError, match="has not come yet"):
        period("2026-03-02", now=datetime(2026, 3, 1, tzinfo=UTC))
    assert period("2026-03-01", now=datetime(2026, 3, 1, 8, tzinfo=UTC)).end == datetime(2026, 3, 2, tzinfo=UTC)


def test_the_command_speaks_before_the_first_round_and_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "No version was ever promoted" in CliRunner().invoke(app, ["history"]).stdout
    assert find(tmp_path) is None and not list(tmp_path.iterdir())


def test_the_command_reads_a_verified_ledger_alone(
    server: Tracking, entries: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(server.root)
    path = server.root / ".embedline" / "ledger.jsonl"
    path.write_bytes((tmp_path / "ledger.jsonl").read_bytes())
    answer = json.loads(CliRunner().invoke(app, ["history", "--at", "2026-03-02", "--json"]).stdout)
    assert [reign["version"] for reign in answer["reigns"]] == ["1", "2"]
    assert (answer["lines"], answer["unfinished"]) == (5, False)
    before = CliRunner().invoke(app, ["history", "--at", "2026-02-01"]).stdout
    assert "version 1 was the first, since 2026-03-01T10:01" in before.replace("\n", "")
    path.write_text(path.read_text().replace("why 2", "why not"))
    with pytest.raises(EmbedlineError, match="line 3 was changed"):
        promotion.history(server)
    refused = CliRunner().invoke(app, ["history"])
    assert isinstance(refused.exception, EmbedlineError) and not refused.stdout

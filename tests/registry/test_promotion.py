import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest

from components.errors import EmbedlineError, Refused, UsageError
from components.registry import infrastructure, ledger, models, promotion
from tests.registry.conftest import Line

REPOSITORY = Path(__file__).parents[2]


def test_promotion_and_rollback_move_the_roles_and_are_in_the_ledger(line: Line) -> None:
    assert line.promote(1, None) == {"champion": "1", "challenger": None, "previous": None}
    assert line.promote(2, 1) == {"champion": "2", "challenger": None, "previous": "1"}
    assert promotion.promote(line.tracking, "2", *line.verdicts(2, 1))["champion"] == "2"
    assert promotion.rollback(line.tracking, "too slow") == {"champion": "1", "challenger": None, "previous": None}
    assert models.roles(line.tracking)["champion"] == "1"
    with pytest.raises(Refused, match=r"version 2 was rolled back on .*: too slow"):
        promotion.nominate(line.tracking, "2")
    with pytest.raises(UsageError, match="no previous version"):
        promotion.rollback(line.tracking)
    entries = promotion.history(line.tracking)
    assert [entry.state for entry in entries] == ["pending", "done"] * 5
    assert [entry.action for entry in entries[::2]] == ["nominate", "promote", "nominate", "promote", "rollback"]
    assert entries[-1].reason == "too slow"
    verdicts = line.tracking.root / ".embedline" / "verdicts"
    assert (
        all((verdicts / f"{digest}.json").is_file() for digest in entries[2].verdicts) and len(entries[2].verdicts) == 2
    )


def test_a_rollback_goes_to_any_version_that_was_champion_and_was_not_rolled_back(line: Line) -> None:
    for number in (1, 2, 3):
        line.promote(number, number - 1 or None)
    never = line.register(4)
    with pytest.raises(UsageError, match="version 3 is the champion"):
        promotion.rollback(line.tracking, to="3")
    with pytest.raises(Refused, match=f"version {never} was never champion"):
        promotion.rollback(line.tracking, to=never)
    with pytest.raises(UsageError, match="no version 99"):
        promotion.rollback(line.tracking, to="99")
    assert promotion.rollback(line.tracking, to="1") == {"champion": "1", "challenger": None, "previous": None}
    assert promotion.history(line.tracking)[-1].from_role is None
    with pytest.raises(Refused, match="version 3 was rolled back"):
        promotion.rollback(line.tracking, to="3")
    assert promotion.rollback(line.tracking, to="2")["champion"] == "2", "it was skipped, not rolled back"


def test_without_both_blessings_of_this_very_version_nothing_moves(line: Line) -> None:
    line.promote(2, None)
    version = line.register(1)
    with pytest.raises(UsageError, match="is not the challenger"):
        promotion.promote(line.tracking, version, *line.verdicts(1, 2))
    promotion.nominate(line.tracking, version)
    good, sound = line.verdicts(3, 2)
    attempts = [
        line.verdicts(1, 2),  # worse than the champion
        line.verdicts(3, 2),  # another model
        (sound, good),  # the wrong way round
        line.verdicts(1, None),  # not compared with the champion
        (line.verdicts(3, 2)[0], line.verdicts(1, None)[1]),  # not measured beside the champion
        (line.verdicts(1, None)[0], infrastructure("bundle-1", {}, line.config)),
    ]
    for attempt in attempts:
        with pytest.raises(Refused):
            promotion.promote(line.tracking, version, *attempt)
    assert models.roles(line.tracking) == {"champion": "1", "challenger": version, "previous": None}
    assert len(promotion.history(line.tracking)) == 6


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


@pytest.mark.parametrize("step", range(5))
def test_a_promotion_killed_at_any_step_is_completed(line: Line, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    line.promote(1, None)
    version = line.register(2)
    promotion.nominate(line.tracking, version)
    steps = iter(range(10))

    def mortal(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(steps) == step:
                raise Killed
            return function(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(models, "set_role", mortal(models.set_role))
        patch.setattr(ledger, "append", mortal(ledger.append))
        with pytest.raises(Killed):
            promotion.promote(line.tracking, version, *line.verdicts(2, 1))
    finished = promotion.reconcile(line.tracking)
    moved = {"champion": "2", "challenger": None, "previous": "1"}
    unmoved = {"champion": "1", "challenger": "2", "previous": None}
    assert models.roles(line.tracking) == (unmoved if step == 0 else moved)
    assert (finished is None) == (step == 0) and promotion.reconcile(line.tracking) is None
    assert [entry.state for entry in promotion.history(line.tracking)][-2:] == ["pending", "done"]
    assert promotion.promote(line.tracking, version, *line.verdicts(2, 1)) == moved


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_a_promotion_loses_nothing(line: Line) -> None:
    line.promote(1, None)
    version = line.register(2)
    promotion.nominate(line.tracking, version)
    for verdict, name in zip(line.verdicts(2, 1), ("quality", "infrastructure"), strict=True):
        (line.tracking.root / name).write_text(verdict._text())
    code = """
import json, os, pathlib, signal
from components.registry import gate, models, promotion, tracking
root = pathlib.Path('.')
def verdict(name):
    fields = json.loads((root / name).read_text())
    return gate.Verdict(**{**fields, 'reasons': tuple(fields['reasons']), 'table': tuple(fields['table'])})
models.set_role = lambda tracking, name, version, move=models.set_role: (
    move(tracking, name, version), os.kill(os.getpid(), signal.SIGKILL))
promotion.promote(tracking.prepare(root), '2', verdict('quality'), verdict('infrastructure'))
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=line.tracking.root, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert models.roles(line.tracking) == {"champion": "2", "challenger": "2", "previous": None}
    assert promotion.nominate(line.tracking, line.register(3)) == {"champion": "2", "challenger": "3", "previous": "1"}


def test_a_change_waits_for_the_one_that_is_under_way(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.promote(1, None)
    second, third = line.register(2), line.register(3)
    promotion.nominate(line.tracking, second)
    moving, go_on = Event(), Event()
    move = models.set_role

    def slowly(*arguments: Any) -> None:
        moving.set()
        assert go_on.wait(60)
        move(*arguments)

    with ThreadPoolExecutor(2) as threads:
        monkeypatch.setattr(models, "set_role", slowly)
        first = threads.submit(promotion.promote, line.tracking, second, *line.verdicts(2, 1))
        assert moving.wait(60)
        other = threads.submit(promotion.nominate, line.tracking, third)
        with pytest.raises(TimeoutError):
            other.result(timeout=1)
        assert models.role(line.tracking, "champion") == "1", "the first is in the middle, and the other waits"
        go_on.set()
        assert first.result()["champion"] == second
        assert other.result() == {"champion": second, "challenger": third, "previous": "1"}
    with pytest.raises(Refused, match="the quality verdict is not against the present champion"):
        promotion.promote(line.tracking, third, *line.verdicts(3, 1))
    assert promotion.promote(line.tracking, third, *line.verdicts(3, 2))["champion"] == third


@pytest.mark.parametrize("twice", [True, False])
def test_of_two_promotions_at_once_one_is_made_and_the_other_says_why_not(line: Line, twice: bool) -> None:
    """Each thread has a lock of its own, as a process has. Both name the same version, or each another one."""
    line.promote(1, None)
    versions = [line.register(2), line.register(3)]
    verdicts = [line.verdicts(2, 1), line.verdicts(2 if twice else 3, 1)]
    if twice:
        versions[1] = versions[0]
    for version in versions:
        promotion.nominate(line.tracking, version)
    together = Barrier(2)

    def attempt(place: int) -> Any:
        together.wait(60)
        try:
            return promotion.promote(line.tracking, versions[place], *verdicts[place])
        except EmbedlineError as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        outcomes = list(threads.map(attempt, range(2)))
    done = [entry for entry in promotion.history(line.tracking) if (entry.action, entry.state) == ("promote", "done")]
    assert len(done) == 2, "the first champion's, and one more"
    assert models.roles(line.tracking) == {"champion": done[-1].version, "challenger": None, "previous": "1"}
    if twice:
        assert outcomes[0] == outcomes[1] == models.roles(line.tracking)
    else:
        assert isinstance(outcomes[0], UsageError) and "version 2 is not the challenger" in outcomes[0].problem
        assert outcomes[1] == models.roles(line.tracking)


def test_a_killed_change_to_a_version_that_is_gone_is_reverted(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.promote(1, None)
    version = line.register(2)
    with monkeypatch.context() as patch:
        patch.setattr(models, "set_role", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            promotion.nominate(line.tracking, version)
    line.tracking.client.delete_model_version(models.MODEL, version)
    reverted = promotion.reconcile(line.tracking)
    assert reverted and reverted.state == "reverted"
    assert models.roles(line.tracking) == {"champion": "1", "challenger": None, "previous": None}


def test_nothing_is_promoted_upon_a_ledger_that_was_cut(line: Line) -> None:
    line.promote(1, None)
    path = line.tracking.root / ".embedline" / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(EmbedlineError, match="line 4 is missing"):
        promotion.nominate(line.tracking, line.register(2))

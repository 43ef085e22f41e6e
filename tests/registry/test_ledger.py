from collections.abc import Callable
from pathlib import Path

import pytest

from components.errors import EmbedlineError
from components.registry import ledger
from components.registry.ledger import Change


def change(version: str) -> Change:
    return Change(
        "promote", version, "challenger", "champion", {"champion": None}, {"champion": version}, ["digest"], "é"
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.jsonl"
    for version in "123":
        ledger.append(path, change(version), "done")
    return path


def test_each_line_carries_the_hash_of_the_one_before(path: Path) -> None:
    entries = ledger.verify(path)
    assert [entry.n for entry in entries] == [1, 2, 3] and entries[0].previous == ledger.START
    assert [entry.previous for entry in entries[1:]] == [entry.hash for entry in entries[:-1]]
    assert entries[1].change == change("2")


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"version": "2"', b'"version": "9"'), lines[2]], 2),
        (lambda lines: [lines[0], lines[1][:50] + b"x" + lines[1][51:], lines[2]], 2),
        (lambda lines: [lines[0], lines[2]], 2),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0], lines[2], lines[1]], 2),
        (lambda lines: [*lines, lines[2]], 4),
        (lambda lines: lines[:2], 3),
        (lambda lines: [], 1),
    ],
    ids=["changed", "broken", "removed", "first removed", "moved", "repeated", "cut off", "emptied"],
)
def test_tampering_is_found_and_its_line_named(
    path: Path, tamper: Callable[[list[bytes]], list[bytes]], line: int
) -> None:
    head = ledger.verify(path)[-1].hash
    path.write_bytes(b"".join(tamper(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(EmbedlineError, match=f"line {line} "):
        ledger.verify(path, head)
    with pytest.raises(EmbedlineError, match=f"line {line} "):
        ledger.append(path, change("4"), "done", head)


def test_a_rewritten_ledger_does_not_end_in_the_line_that_was_seen(path: Path) -> None:
    head = ledger.verify(path)[-1].hash
    path.unlink()
    for version in "129":
        ledger.append(path, change(version), "done")
    assert ledger.verify(path)
    with pytest.raises(EmbedlineError):
        ledger.verify(path, head)


def test_a_line_that_was_torn_by_a_kill_is_dropped(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"n": 4, "time"')
    assert len(ledger.verify(path)) == 3
    assert ledger.append(path, change("4"), "pending").n == 4
    assert path.read_bytes().startswith(whole) and len(ledger.verify(path)) == 4

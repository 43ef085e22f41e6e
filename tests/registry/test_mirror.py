"""Lines of the ledger that were changed, cut or moved are found, also in a chain that was written anew as a whole."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from cli.main import app
from components.errors import EmbedlineError
from components.registry import ledger, models, promotion
from components.registry.ledger import Entry
from components.registry.tracking import Tracking
from monitoring import doctor
from tests.registry.conftest import Line

PARAMETERS = Path(__file__).parents[2] / "params.yaml"
FILE, OBJECT = "ledger.jsonl", "memory://bucket/ledger.jsonl"
Tamper = Callable[[list[bytes]], list[bytes]]


@pytest.fixture(params=[FILE, OBJECT])
def mirrored(line: Line, request: pytest.FixtureRequest) -> Line:
    """Two versions were promoted, and every line of that was copied."""
    fsspec.filesystem("memory").store.clear()
    configure(line.tracking, request.param)
    line.promote(1, None)
    line.promote(2, 1)
    return line


def configure(tracking: Tracking, mirror: str) -> None:
    text = PARAMETERS.read_text(encoding="utf-8")
    (tracking.root / "params.yaml").write_text(f"{text}\nregistry: {{mirror: '{mirror}'}}\n", encoding="utf-8")


def copied(tracking: Tracking) -> bytes:
    location = str(promotion.mirror_location(tracking.root))
    return fsspec.filesystem("memory").cat("/bucket/ledger.jsonl") if "://" in location else read(tracking, location)


def read(tracking: Tracking, name: str) -> bytes:
    return (tracking.root / name).read_bytes()


def text_of(entry: Entry) -> bytes:
    return json.dumps(vars(entry), ensure_ascii=False).encode() + b"\n"


def rewritten(lines: list[bytes]) -> list[bytes]:
    """The lines with another reason in the first, and every hash after it made to fit."""
    entries: list[Entry] = []
    for text in lines:
        entry = Entry(**json.loads(text))
        previous = entries[-1].hash if entries else ledger.START
        entries.append(replace(entry, reason="all was well", previous=previous, n=len(entries) + 1).sealed())
    return [text_of(entry) for entry in entries]


def continued(lines: list[bytes]) -> list[bytes]:
    """The lines and two more that follow from them."""
    last = Entry(**json.loads(lines[-1]))
    added = replace(last, n=last.n + 1, previous=last.hash, reason="another").sealed()
    more = replace(added, n=added.n + 1, previous=added.hash).sealed()
    return [*lines, text_of(added), text_of(more)]


def write_with_anchors(tracking: Tracking, lines: list[bytes]) -> None:
    """Replaces the ledger, and in MLflow every hash of it."""
    tracking.ledger.write_bytes(b"".join(lines))
    entries = [json.loads(text) for text in lines]
    tracking.client.set_registered_model_tag(models.MODEL, promotion.HEAD_TAG, entries[-1]["hash"])
    for version, tags in models.versions(tracking).items():
        for tag in (name for name in tags if name.startswith(promotion.ANCHOR)):
            number = int(tag.removeprefix(promotion.ANCHOR))
            if number > len(entries):
                tracking.client.delete_model_version_tag(models.MODEL, version, tag)
            else:
                tracking.client.set_model_version_tag(models.MODEL, version, tag, entries[number - 1]["hash"])


def test_every_line_is_in_the_mirror_and_in_mlflow(mirrored: Line) -> None:
    tracked = mirrored.tracking
    lines = tracked.ledger.read_bytes()
    assert lines.count(b"\n") == 8 and copied(tracked) == lines
    assert promotion.anchors(tracked) == {entry.n: entry.hash for entry in promotion.history(tracked)}
    assert promotion.compare_with_mirror(tracked) == promotion.mirror_location(tracked.root)
    assert doctor.roles(tracked.root).ok


@pytest.mark.parametrize("mirrored", [OBJECT], indirect=True)
@pytest.mark.parametrize(
    ("tamper", "line_number"),
    [
        (rewritten, 1),
        (lambda lines: rewritten([*lines[:2], *lines[4:]]), 1),
        (lambda lines: lines[:6], 7),
        (continued, 9),
    ],
)
def test_a_chain_that_was_written_anew_as_a_whole_is_found_by_the_mirror_alone(
    mirrored: Line, tamper: Tamper, line_number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = mirrored.tracking
    lines = tamper(tracked.ledger.read_bytes().splitlines(keepends=True))
    write_with_anchors(tracked, lines)
    assert len(promotion.history(tracked)) == len(lines), "by itself the chain is sound"
    with pytest.raises(EmbedlineError, match=f"line {line_number} of the ledger"):
        promotion.compare_with_mirror(tracked)
    found = doctor.roles(tracked.root)
    assert not found.ok and f"line {line_number} of the ledger" in found.detail
    monkeypatch.chdir(tracked.root)
    said = CliRunner().invoke(app, ["history"])
    assert isinstance(said.exception, EmbedlineError) and f"line {line_number} " in said.exception.problem
    with pytest.raises(EmbedlineError, match=f"line {line_number} of the ledger"):
        promotion.restore_roles(tracked)
    with pytest.raises(EmbedlineError, match=f"line {line_number} of the ledger"):
        promotion.nominate(tracked, mirrored.register(3))


def test_a_chain_written_anew_without_mlflows_anchors_is_found_without_a_mirror(line: Line) -> None:
    line.promote(1, None)
    lines = rewritten(line.tracking.ledger.read_bytes().splitlines(keepends=True))
    line.tracking.ledger.write_bytes(b"".join(lines))
    head = json.loads(lines[-1])["hash"]
    line.tracking.client.set_registered_model_tag(models.MODEL, promotion.HEAD_TAG, head)
    with pytest.raises(EmbedlineError, match="line 1 is not the one that MLflow has an anchor of"):
        promotion.history(line.tracking)


def test_a_mirror_that_is_gone_or_cannot_be_written_stops_every_change(mirrored: Line) -> None:
    tracked = mirrored.tracking
    version, before = mirrored.register(3), tracked.ledger.read_bytes()
    fsspec.filesystem("memory").store.clear()
    (tracked.root / FILE).unlink(missing_ok=True)
    with pytest.raises(EmbedlineError, match="is gone from the mirror"):
        promotion.nominate(tracked, version)
    assert tracked.ledger.read_bytes() == before and models.role(tracked, "challenger") is None
    configure(tracked, "nosuch://bucket/ledger.jsonl")
    with pytest.raises(EmbedlineError, match=r"registry.mirror: nosuch://.* cannot be read"):
        promotion.nominate(tracked, version)
    assert tracked.ledger.read_bytes() == before
    configure(tracked, "another.jsonl")
    promotion.nominate(tracked, version)
    assert read(tracked, "another.jsonl") == tracked.ledger.read_bytes() != before


def test_a_change_killed_before_its_line_was_copied_is_completed(
    mirrored: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked, version = mirrored.tracking, mirrored.register(3)
    with monkeypatch.context() as patch:
        patch.setattr("components.registry.mirror.write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            promotion.nominate(tracked, version)
    assert copied(tracked) != tracked.ledger.read_bytes() and promotion.compare_with_mirror(tracked)
    finished = promotion.reconcile(tracked)
    assert finished and finished.state == "done" and copied(tracked) == tracked.ledger.read_bytes()


@pytest.mark.system("git")
def test_a_mirror_that_was_written_anew_too_is_found_by_git(line: Line) -> None:
    tracked = line.tracking
    configure(tracked, FILE)
    line.promote(1, None)
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    for arguments in (("init", "-q"), ("add", FILE), (*who, "commit", "-qm", "a round")):
        subprocess.run(["git", *arguments], cwd=tracked.root, check=True)
    line.promote(2, 1)
    assert promotion.compare_with_mirror(tracked) == FILE
    lines = rewritten(tracked.ledger.read_bytes().splitlines(keepends=True))
    write_with_anchors(tracked, lines)
    (tracked.root / FILE).write_bytes(b"".join(lines))
    with pytest.raises(EmbedlineError, match="line 1 of the ledger is another one in the commit of git"):
        promotion.compare_with_mirror(tracked)

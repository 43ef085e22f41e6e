"""Who was champion when, and why: the ledger read as reigns, one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import zip_longest

from components.errors import UsageError
from components.registry.ledger import Action, Entry


@dataclass(frozen=True)
class Reign:
    """The time in which one version was champion: from its change's last line on, until the next one's (None: still).

    `verdicts` are the digests of the verdicts that allowed it; a rollback needs none.
    """

    version: str
    since: str
    until: str | None
    action: Action
    reason: str
    verdicts: tuple[str, ...]


@dataclass(frozen=True)
class Period:
    """From `start` to before `end`, in UTC."""

    start: datetime
    end: datetime


def reigns(entries: Iterable[Entry]) -> list[Reign]:
    """Returns the reigns that a verified ledger tells of, the first one first. A change that was reverted made none."""
    began = [entry for entry in entries if entry.state == "done" and entry.before["champion"] != _champion(entry)]
    return [
        Reign(
            version,
            entry.time,
            following.time if following else None,
            entry.action,
            entry.reason,
            tuple(entry.verdicts),
        )
        for entry, following in zip_longest(began, began[1:])
        if (version := _champion(entry)) is not None
    ]


def period(text: str, now: datetime | None = None) -> Period:
    """Returns the day or the moment that `text`, in ISO 8601, names; without an offset it is one of UTC.

    Raises `UsageError` if it is neither, or lies in the future.
    """
    try:
        if "T" in text or " " in text.strip():
            moment = datetime.fromisoformat(text)
            start = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
            found = Period(start, start + timedelta.resolution)
        else:
            start = datetime.combine(date.fromisoformat(text), time(), UTC)
            found = Period(start, start + timedelta(days=1))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text}: is no date", "Write a day, 2026-03-01, or a time, 2026-03-01T14:30+01:00."
        ) from error
    if found.start > (now or datetime.now(UTC)):
        raise UsageError(f"{text}: has not come yet", "Name a day or a time of the past.")
    return found


def during(reigns: Sequence[Reign], wanted: Period) -> list[Reign]:
    """Returns the reigns of which some part lies in the period: several where the champion changed in it."""
    return [
        reign
        for reign in reigns
        if datetime.fromisoformat(reign.since) < wanted.end
        and (reign.until is None or datetime.fromisoformat(reign.until) > wanted.start)
    ]


def iso(milliseconds: int) -> str:
    """Returns a time of MLflow's, as the ledger writes its own."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _champion(entry: Entry) -> str | None:
    return entry.after["champion"]

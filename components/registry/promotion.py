"""Changes of role: nominate, promote, roll back; each is in the ledger, and one that was killed is finished later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from components.errors import EmbedlineError, Refused, UsageError
from components.registry import evidence, ledger, mirror, models
from components.registry.agreement import settled
from components.registry.gate import Verdict
from components.registry.ledger import Action, Change, Entry, State
from components.registry.models import ROLES, Role, Roles
from components.registry.tracking import Tracking, registry
from components.workspace import STATE

SENT_AWAY: dict[Action, tuple[Role, str]] = {
    "rollback": ("champion", "rolled back"), "reject": ("challenger", "rejected"),
}  # fmt: skip
"""The changes after which a version does not come back by a round, the role that it had, and the word for it."""
MIRROR_TAG = "ledger_mirror"
"""The mirror that the ledger was last copied to."""
ANCHOR = "ledger/"
"""Begins the tag of a version that holds the hash of a line about it."""
HEAD_TAG = "ledger_head"
"""The registry remembers the last line of the ledger, so that lines cut off its end are missed."""
VERDICTS = STATE / "verdicts"


def nominate(tracking: Tracking, version: str, reason: str = "") -> Roles:
    """Makes a version the challenger. Returns the roles afterwards; a champion stays what it is.

    Raises `Refused` for a version that was rolled back: the next scheduled round must not bring it back unseen.
    """
    with alone(tracking):
        models.require_bundle(version, models.facts(tracking, version))
        before = models.roles(tracking)
        if version in (before["champion"], before["challenger"]):
            return before
        _refuse_if_sent_away(tracking, version)
        return _change(tracking, "nominate", version, None, "challenger", before | {"challenger": version}, [], reason)


def promote(tracking: Tracking, version: str, quality: Verdict, infrastructure: Verdict, reason: str = "") -> Roles:
    """Makes the challenger the champion and the champion the previous one. Returns the roles afterwards.

    Raises `Refused` unless both verdicts passed and are about this very version, `UsageError` if it is no challenger.
    """
    with alone(tracking):
        before = models.roles(tracking)
        if before["champion"] == version:
            return before
        if before["challenger"] != version:
            raise UsageError(f"version {version} is not the challenger", "Register it in a round: `embedline run`.")
        _require(tracking, version, quality, infrastructure, before)
        verdicts = [verdict.write(tracking.root / VERDICTS).stem for verdict in (quality, infrastructure)]
        after = {"champion": version, "challenger": None, "previous": before["champion"]}
        return _change(tracking, "promote", version, "challenger", "champion", after, verdicts, reason)


def rollback(tracking: Tracking, reason: str = "", to: str | None = None) -> Roles:
    """Makes the previous version the champion again, or version `to`, which was champion once. Returns the roles
    afterwards.

    The version that was champion loses its role: to come back it passes the gate again. Raises `Refused` for a version
    that was never champion or was rolled back itself.
    """
    with alone(tracking):
        before = models.roles(tracking)
        if (version := to or before["previous"]) is None:
            raise UsageError("there is no previous version to go back to", "Promote another version: `embedline run`.")
        if version == before["champion"]:
            raise UsageError(f"version {version} is the champion", "Name a version that was champion before it.")
        models.require_bundle(version, models.facts(tracking, version))
        from_role = "previous" if version == before["previous"] else None
        if from_role is None:
            _refuse_if_sent_away(tracking, version)
            _refuse_if_never_champion(tracking, version)
        after = before | {"champion": version, "previous": None}
        return _change(tracking, "rollback", version, from_role, "champion", after, [], reason)


def reject(tracking: Tracking, version: str, reason: str) -> Roles:
    """Takes its role from the challenger, for good. Returns the roles afterwards. Raises `UsageError` if it is none."""
    with alone(tracking):
        before = models.roles(tracking)
        if before["challenger"] != version:
            raise UsageError(f"version {version} is not the challenger", "Name the one that waits.")
        after = before | {"challenger": None}
        return _change(tracking, "reject", version, "challenger", "none", after, [], reason)


def reconcile(tracking: Tracking) -> Entry | None:
    """Finishes a change that was killed: completes it, or reverts it if its version is gone. Returns its last line."""
    with FileLock(tracking.ledger.with_name("promotion.lock")):
        return _reconcile(tracking)


def restore_roles(tracking: Tracking) -> Roles:
    """Moves aliases that somebody has moved past the ledger back. Returns where each of these was.

    An unfinished change is finished first; a version that is gone plays no role. Raises `EmbedlineError` if it is the
    champion that is gone.
    """
    with FileLock(tracking.ledger.with_name("promotion.lock")):
        compare_with_mirror(tracking)
        _reconcile(tracking)
        found, wanted = models.roles(tracking), settled(history(tracking))
        gone = [name for name, version in wanted.items() if version and not _exists(tracking, version)]
        if "champion" in gone:
            raise EmbedlineError(
                f"version {wanted['champion']}, champion by the ledger, is gone from MLflow",
                "Restore MLflow's database and its artifacts from a backup.",
            )
        wanted |= dict.fromkeys(gone)
        _apply(tracking, wanted)
        return {name: found[name] for name in ROLES if found[name] != wanted[name]}


def history(tracking: Tracking) -> list[Entry]:
    """Returns every line of the ledger. Raises `EmbedlineError` if it was tampered with."""
    return ledger.verify(tracking.ledger, _head(tracking), anchors(tracking))


def anchors(tracking: Tracking) -> dict[int, str]:
    """Returns the hashes that MLflow keeps of lines, by their number."""
    return {
        int(tag.removeprefix(ANCHOR)): value
        for tags in models.versions(tracking).values()
        for tag, value in tags.items()
        if tag.startswith(ANCHOR)
    }


def compare_with_mirror(tracking: Tracking) -> str | None:
    """Returns where the mirror of the ledger is, None if there is none. Raises `EmbedlineError` if they differ."""
    if location := mirror_location(tracking.root):
        mirror.check(tracking.root, location, ledger.lines(tracking.ledger), _was_mirrored(tracking, location))
    return location


def mirror_location(root: Path) -> str | None:
    return registry(root).mirror


@contextmanager
def alone(tracking: Tracking) -> Iterator[None]:
    """One change at a time, and none upon an unfinished one, nor upon an alias that no ledger line has moved."""
    with FileLock(tracking.ledger.with_name("promotion.lock")):
        compare_with_mirror(tracking)
        _reconcile(tracking)
        known = settled(history(tracking))
        for name, version in models.roles(tracking).items():
            if version and version != known[name]:
                problem = f"MLflow calls version {version} the {name}, the ledger {known[name] or 'none'}"
                raise Refused(problem, "Nothing has blessed it. Run `embedline reconcile`: it moves the alias back.")
        yield


def _change(
    tracking: Tracking, action: Action, version: str, from_role: str | None, to_role: str, after: Roles,
    verdicts: list[str], reason: str,
) -> Roles:  # fmt: skip
    change = Change(action, version, from_role, to_role, models.roles(tracking), after, verdicts, reason)
    _append(tracking, change, "pending")
    _apply(tracking, after)
    _append(tracking, change, "done")
    return after


def _reconcile(tracking: Tracking) -> Entry | None:
    entries = history(tracking)
    if not entries or entries[-1].state != "pending":
        return None
    killed = entries[-1]
    completed = _exists(tracking, killed.version)
    _apply(tracking, killed.after if completed else killed.before)
    return _append(tracking, killed.change, "done" if completed else "reverted")


def _apply(tracking: Tracking, wanted: Roles) -> None:
    """Moves the aliases, the champion first: from the first step on requests can be answered by the right one."""
    present = models.roles(tracking)
    for name in ROLES:
        if present[name] != wanted[name]:
            models.set_role(tracking, name, wanted[name])


def _append(tracking: Tracking, change: Change, state: State) -> Entry:
    if state == "done" and change.action in SENT_AWAY:  # before the line: what is killed in between is repeated
        away = change.before[SENT_AWAY[change.action][0]]
        if away and _exists(tracking, away):
            evidence.withdraw(tracking, away)
    _copy_to_mirror(tracking)  # what a killed change has left out
    entry = ledger.append(tracking.ledger, change, state, _head(tracking))
    _copy_to_mirror(tracking)
    tracking.client.set_registered_model_tag(tracking.model, HEAD_TAG, entry.hash)
    if _exists(tracking, change.version):
        tracking.client.set_model_version_tag(tracking.model, change.version, f"{ANCHOR}{entry.n}", entry.hash)
    return entry


def _copy_to_mirror(tracking: Tracking) -> None:
    if location := mirror_location(tracking.root):
        lines, known = ledger.lines(tracking.ledger), _was_mirrored(tracking, location)
        if mirror.check(tracking.root, location, lines, known) != lines:
            mirror.write(tracking.root, location, lines)
        if lines and not known:
            tracking.client.set_registered_model_tag(tracking.model, MIRROR_TAG, location)


def _was_mirrored(tracking: Tracking, location: str) -> bool:
    return models.model_tags(tracking).get(MIRROR_TAG) == location


def _require(tracking: Tracking, version: str, quality: Verdict, infrastructure: Verdict, roles: Roles) -> None:
    quality.require()
    infrastructure.require()
    tags = models.facts(tracking, version)
    champion = models.facts(tracking, roles["champion"]) if roles["champion"] else {}
    if (quality.blessing, infrastructure.blessing) != ("quality", "infrastructure"):
        raise Refused("two blessings are needed, one of each kind", "Give the quality and the infrastructure verdict.")
    if quality.subject != tags["model_fingerprint"] or infrastructure.subject != tags["fingerprint"]:
        raise Refused(f"the verdicts are about another model than version {version}", "Judge this version.")
    against = {"quality": "model_fingerprint", "infrastructure": "fingerprint"}
    for verdict in (quality, infrastructure):
        if verdict.against != champion.get(against[verdict.blessing]):
            problem = f"the {verdict.blessing} verdict is not against the present champion"
            raise Refused(problem, "Compare with the champion of now.")


def _refuse_if_sent_away(tracking: Tracking, version: str) -> None:
    """A bundle that was rolled back or rejected is refused under any number: a pruned one may be registered again."""
    known = models.versions(tracking)
    fingerprint = known[version].get("fingerprint", version)
    for entry in history(tracking):
        if entry.action not in SENT_AWAY or entry.state != "done":
            continue
        role, how = SENT_AWAY[entry.action]
        sent_away = str(entry.before[role])
        if sent_away == version or known.get(sent_away, {}).get("fingerprint") == fingerprint:
            raise Refused(
                f"version {version} was {how} on {entry.time}: {entry.reason or 'no reason was given'}",
                "The champion stays. Change the data or a parameter, so that the next round makes another version.",
            )


def _refuse_if_never_champion(tracking: Tracking, version: str) -> None:
    done = [entry for entry in history(tracking) if entry.state == "done"]
    if not any(entry.to_role == "champion" and entry.version == version for entry in done):
        raise Refused(
            f"version {version} was never champion",
            f"Try it on some users: `embedline deploy {version} --canary 0.1`, or promote it: `embedline run`.",
        )


def _exists(tracking: Tracking, version: str) -> bool:
    try:
        models.facts(tracking, version)
    except UsageError:
        return False
    return True


def _head(tracking: Tracking) -> str | None:
    return models.model_tags(tracking).get(HEAD_TAG)

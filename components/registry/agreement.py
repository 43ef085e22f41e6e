"""Whether MLflow's aliases, the ledger and the running server name the same versions, and what to do where not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from components.registry.ledger import Entry
from components.registry.models import ROLES, Roles

RECONCILE = "Run `embedline reconcile`"


@dataclass(frozen=True)
class Disagreement:
    """What one of the three says against another, and the remedy."""

    what: str
    remedy: str


def settled(entries: Sequence[Entry]) -> Roles:
    """Returns the roles that the ledger vouches for: those of its last line, before it unless it is done."""
    if not entries:
        return dict.fromkeys(ROLES)
    last = entries[-1]
    return dict(last.after if last.state == "done" else last.before)


def disagreements(aliases: Roles, entries: Sequence[Entry], loaded: Collection[int] | None) -> list[Disagreement]:
    """Returns what does not agree; nothing is asked or changed.

    `aliases` are MLflow's, `entries` the verified ledger, `loaded` the versions that a running server answers by (None:
    no server runs). Clients that name no version are answered by the highest one, which must be the champion.
    """
    last = entries[-1] if entries else None
    if last and last.state == "pending":
        what = f"the {last.action} of version {last.version}, begun {last.time}, was not finished"
        return [Disagreement(what, f"{RECONCILE}: it completes the change, or undoes it if its version is gone.")]
    known = settled(entries)
    found = [
        Disagreement(
            f"MLflow calls version {aliases[role] or 'none'} the {role}, the ledger {known[role] or 'none'}",
            f"{RECONCILE}: it moves the alias back to what the ledger vouches for.",
        )
        for role in ROLES
        if aliases[role] != known[role]
    ]
    champion = known["champion"]
    if loaded is not None and champion and max(loaded, default=None) != int(champion):
        answers = f"version {max(loaded)}" if loaded else "no version"
        what = f"the server answers by {answers}, champion is version {champion}"
        found.append(Disagreement(what, f"{RECONCILE}: the server then follows the roles."))
    return found

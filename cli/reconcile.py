"""`embedline reconcile`: finishes a change of roles that was killed."""

from __future__ import annotations

from pathlib import Path

from cli.options import Machine
from cli.screen import say, screen, spell
from components.workspace import STATE

ENDINGS = {"done": "completed", "reverted": "undone, since its version is gone"}


def reconcile(machine: Machine = False) -> None:
    """Finish a change of roles that was killed, undo aliases moved by hand; a running server follows.

    Example: `embedline reconcile`
    """
    from components import lineage
    from components.registry import models, promotion, tracking
    from serving.roles import follow_roles

    with lineage.lock(Path()):
        tracked = tracking.prepare(Path())
        finished = promotion.reconcile(tracked)
        moved = promotion.restore_roles(tracked)
        roles = models.roles(tracked)
        if roles["champion"]:
            follow_roles(STATE, tracked)
    if machine:
        change = finished and {"action": finished.action, "version": finished.version, "state": finished.state}
        say({"finished": change, "moved_back": moved, "roles": roles})
        return
    if finished:
        screen.print(f"The {finished.action} of version {finished.version} is {ENDINGS[finished.state]}.")
    for role, version in moved.items():
        screen.print(f"The alias {role} was at version {version or 'none'}, against the ledger: it was moved back.")
    if not finished and not moved:
        screen.print("No change was open, and the roles are those of the ledger.")
    screen.print(f"Roles: {spell(roles) or 'none is played yet'}")

"""`embedline doctor`: what is wrong with this machine; it speaks also where the installation is broken."""

from __future__ import annotations

from pathlib import Path

import typer

from cli.options import Machine
from cli.screen import say, screen


def doctor(machine: Machine = False) -> None:
    """Check versions, fonts, ports, databases, disk and offline switches, and say how to fix each.

    Example: `embedline doctor`
    """
    from monitoring.doctor import diagnose

    findings = diagnose(Path())
    if machine:
        say([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            screen.print(
                f"{'[green]ok[/green]  ' if finding.ok else '[red]fix[/red] '} {finding.name}: {finding.detail}"
            )
            if not finding.ok:
                screen.print(f"     {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)

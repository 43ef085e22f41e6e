"""What `embedline plan` says to a person."""

import pytest
from rich.console import Console

from cli.plan import expected, gates, table, words
from components.lineage import Planned, Reason
from components.stages.plan import Plan

LIMITS = {"champion": None, "overall": None, "margin": 0.01, "max_task_drop": 0.05, "floors": {"overall": 0.2}}


@pytest.fixture
def found() -> Plan:
    changed = tuple(Reason(f"teacher.x{n}", "parameter", n, n + 1) for n in range(7))
    anew = (Reason("artifacts/teacher", "would be made anew by stage teacher"),)
    stages = (Planned("teacher", True, changed), Planned("distill", False, anew))
    return Plan((), {}, stages, {"teacher": 61.2}, LIMITS)


def test_a_person_reads_what_changed_and_how_long_it_took(found: Plan) -> None:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table(found))
    shown = captured.get()
    for said in ("teacher.x0: 0 is now 1", "2 more, see --json", "61 s", "never ran here", "if that differs"):
        assert said in shown
    assert expected(found).startswith("Expected: 61 s for 1 stages, and 1 that never ran here")
    assert words(Reason("data", "modified")) == "data modified"


def test_the_gates_name_the_champion_and_the_limits(found: Plan) -> None:
    assert gates(found) == "The gates would compare with nothing, there is no champion; floors: overall 0.2."
    against = Plan((), {}, (), {}, LIMITS | {"champion": "3", "overall": 0.612})
    assert "champion 3 (overall 0.612): at most 0.01 worse overall, 0.05 on a set" in gates(against)

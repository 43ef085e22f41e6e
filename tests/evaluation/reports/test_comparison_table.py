import io

from rich.console import Console

from components.evaluation.reports.comparison_table import comparison_table
from components.scores import Scores, compare
from tests.scores.made_up import of_values, with_task


def content(hits: dict[str, int]) -> Scores:
    return of_values({name: [1.0] * count + [0.0] * (200 - count) for name, count in hits.items()})


def shown(ours: Scores, theirs: Scores, names: tuple[str, str]) -> list[str]:
    console = Console(width=140, file=(text := io.StringIO()))
    console.print(comparison_table(compare(ours, theirs, 2000, 0.95), names))
    return [line.strip() for line in text.getvalue().splitlines()]


def row(lines: list[str], name: str) -> list[str]:
    return [cell.strip() for line in lines if line.startswith(f"│ {name} ") for cell in line.strip("│").split("│")]


def test_one_row_a_set_with_interval_and_both_tests_and_the_verdict_last() -> None:
    lines = shown(content({"groups": 100, "names": 140}), content({"groups": 100, "names": 100}), ("new", "old"))
    assert "95% interval" in "".join(lines)
    assert row(lines, "groups") == ["groups", "50.0", "50.0", "+0.0", "-1.8 to 1.8", "1.000", "1.000", ""]
    name, ours, theirs, difference, interval, p, mcnemar, better = row(lines, "names")
    assert (name, ours, theirs, difference, better) == ("names", "70.0", "50.0", "+20.0", "new")
    assert interval.startswith("14.") and p == "< 0.001" and mcnemar == "< 0.001"
    assert row(lines, "overall")[1:4] == ["60.0", "50.0", "+10.0"] and row(lines, "overall")[-1] == "new"
    assert lines[-1].startswith("new is better: +10.0 points overall (7.") and "1 of 2 sets" in lines[-1]


def test_the_better_model_is_named_on_either_side_and_none_where_nothing_is_shown() -> None:
    high, low = content({"names": 140}), content({"names": 100})
    assert row(shown(low, high, ("a", "b")), "names")[-1] == "b"
    assert shown(low, high, ("a", "b"))[-1].startswith("b is better: +20.0")
    nearly = shown(content({"names": 102}), low, ("a", "b"))
    assert row(nearly, "names")[-1] == "" and nearly[-1].startswith("no difference shown: +1.0 points overall")


def test_values_between_hit_and_miss_have_no_mcnemar() -> None:
    ties = content({"names": 100})
    ties = with_task(ties, "names", values=[0.5, *ties.tasks["names"].values[1:]], score=0.4975)
    assert row(shown(ties, content({"names": 100}), ("a", "b")), "names")[-2:] == ["-", ""]


def test_names_are_printed_as_they_are() -> None:
    lines = shown(content({"[bold]set": 100}), content({"[bold]set": 100}), ("[red]a", "b[/red]"))
    assert row(lines, "[bold]set") and "[red]a against b[/red]" in lines[0]

"""Messages and README name only commands that there are."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from cli.main import app

ROOT = Path(__file__).parents[1]
PACKAGES = ("cli", "components", "flows", "monitoring", "serving")
NAMED = re.compile(r"(?<![\w/.-])embedline ([a-z]+)")
COMMANDS = set(getattr(typer.main.get_command(app), "commands", ()))
TEXTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))),
]


def literals(path: Path, text: str) -> Iterator[str]:
    if path.suffix == ".md":
        yield text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named(path: Path, text: str) -> set[str]:
    """The words that follow `embedline` in the text of a Markdown file, or in the strings of a module."""
    return {word for literal in literals(path, text) for word in NAMED.findall(literal)}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_only_commands_that_exist_are_named(path: Path) -> None:
    assert named(path, path.read_text(encoding="utf-8")) <= COMMANDS


def test_commands_are_found_where_they_are_named() -> None:
    assert {"run", "ingest", "search", "reset"} <= COMMANDS
    assert {"run", "search", "evaluate"} <= named(ROOT / "README.md", (ROOT / "README.md").read_text(encoding="utf-8"))
    module = (
        'def f(x):\n    """See `embedline run`."""\n    # embedline comment\n    return f"try embedline deploy {x}"'
    )
    assert named(Path("module.py"), module) == {"run", "deploy"}
    assert named(Path("page.md"), "Embedline is one; `embedline fly --now`; in ~/.cache/embedline and so on") == {"fly"}
    assert not {"swim", "fly"} & COMMANDS

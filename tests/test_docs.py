"""The pages name only files that there are, and commands as they can be called."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = re.compile(r"`((?:cli|components|flows|serving|monitoring|tests|benchmarks|profiles|docs)/[\w./{},-]*)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
NAMES = ("NAME", "{")


def missing_paths(page: Path, text: str) -> set[str]:
    """Returns the paths of the project that a page names and that there are not; `NAME` stands for any."""
    named = {path for path in OURS.findall(text) if not any(sign in path for sign in NAMES)}
    linked = {path for path in LINK.findall(text) if not (page.parent / path).exists()}
    return {path for path in named if not (ROOT / path).exists()} | linked


def wrong_commands(text: str) -> list[str]:
    """Returns the lines of a page's code blocks that call `embedline` with a command or an option that it lacks."""
    commands = typer.main.get_command(app)
    wrong = []
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if not line.startswith("embedline "):
                continue
            words = shlex.split(line, comments=True)
            command = getattr(commands, "commands", {}).get(words[1])
            options = {name for parameter in getattr(command, "params", ()) for name in parameter.opts}
            if command is None or not {word for word in words if word.startswith("--")} <= options:
                wrong.append(line)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_what_there_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing_paths(page, text) == set()
    assert wrong_commands(text) == []


def test_what_there_is_not_is_found() -> None:
    text = "See `components/nowhere.py`, [a page](nothing.md) and `components/errors.py`.\n```sh\nembedline fly\n```"
    assert missing_paths(ROOT / "README.md", text) == {"components/nowhere.py", "nothing.md"}
    assert wrong_commands(text) == ["embedline fly"]
    assert wrong_commands("```\nembedline run --nothing\nembedline run --git\n```") == ["embedline run --nothing"]

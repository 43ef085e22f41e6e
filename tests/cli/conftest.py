"""The command line in this process: what a refusal says does not need a new one, which takes seconds to start."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.main import main

Called = tuple[int, str, str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Calls `embedline ARGUMENTS` in a folder; returns its exit code, and what it wrote to output and errors."""

    def called(folder: Path, *arguments: str) -> Called:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["embedline", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, int)
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return called

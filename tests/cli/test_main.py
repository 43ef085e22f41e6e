"""How commands start and end: by Ctrl-C, with a usage error, with help; each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import PANELS
from tests.flows.conftest import COMMAND, ROOT, Line, fresh_line, wait_for

__all__ = ["fresh_line"]

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SAID = "stopped by Ctrl-C"
REMEDY = "Run the same command again: it goes on where it was."
WAIT = """
import time
from cli.main import app, main
from cli.options import Machine

@app.command()
def wait(machine: Machine = False) -> None:
    print("ready", flush=True)
    time.sleep(60)

main()
"""


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


BROKEN = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

MISSING = {"filelock", "mlflow", "numpy", "onnxruntime", "pandas", "prefect", "pyarrow", "torch", "yaml"}
sys.meta_path.insert(0, Missing())
from cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [(("--help",), 0, "doctor"), (("doctor",), 1, "cannot be checked: No module named"), (("ingest",), 1, "No module")],
)
def test_help_and_doctor_speak_where_packages_are_missing(
    arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text("{}")
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN, *arguments],
        cwd=tmp_path,
        env=ENVIRONMENT | {"COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == code and said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


def test_every_command_stands_in_a_panel_of_help(tmp_path: Path) -> None:
    shown = call(tmp_path, "--help").stdout
    assert {*PANELS} <= {line.strip("╭─╮ ") for line in shown.splitlines()}
    modules = {file.stem for file in (ROOT / "cli").glob("*.py")}
    assert modules - {"__init__", "main", "options", "progress", "screen"} == {
        name for names in PANELS.values() for name in names
    }


@pytest.mark.parametrize("machine", [False, True])
def test_ctrl_c_says_how_to_go_on(machine: bool, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAIT, "wait", *(["--json"] if machine else [])],
        cwd=tmp_path,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    if machine:
        assert json.loads(output) == {"error": SAID, "remedy": REMEDY, "exit_code": 130} and not errors
    else:
        assert not output and errors == f"embedline: {SAID}\n  {REMEDY}\n"


@pytest.mark.system("git")
@pytest.mark.slow
def test_ctrl_c_in_a_flow_says_so_too(fresh_line: Line) -> None:
    process = fresh_line.start("ingest")
    holder = fresh_line.root / ".embedline" / "holder.json"
    wait_for(lambda: holder.exists() and str(process.pid) in holder.read_text(), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert SAID in errors and REMEDY in errors and "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--help",), 0, "rollback"),
        (("run", "--help"), 0, "--git"),
        ((), 2, "Usage"),
        (("fly",), 2, "No such command 'fly'"),
        (("run", "--fast"), 2, "No such option: --fast"),
        (("search", "x", "--top", "0"), 2, "--top"),
        (("stage",), 2, "Missing argument"),
        (("stage", "fly"), 2, "fly: no such stage"),
    ],
)
def test_help_and_usage_errors_end_as_typer_ends_them(
    arguments: tuple[str, ...], code: int, said: str, tmp_path: Path
) -> None:
    ended = call(tmp_path, *arguments)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr and SAID not in ended.stderr


@pytest.mark.slow
@pytest.mark.system
def test_git_is_asked_for_and_says_what_it_commits(fresh_line: Line) -> None:
    subprocess.run(["rm", "-rf", ".git"], cwd=fresh_line.root, check=True)
    refused = fresh_line.call("ingest")
    assert refused.returncode == 2
    assert "no git repository with a commit" in refused.stderr and "embedline ingest --git" in refused.stderr
    assert not (fresh_line.root / ".git").exists()
    started = fresh_line.call("ingest", "--git")
    assert started.returncode == 0, started.stderr
    committed = subprocess.run(
        ["git", "ls-files"], cwd=fresh_line.root, capture_output=True, text=True, check=True
    ).stdout
    assert f"first commit, of {len(committed.splitlines())} files" in " ".join(started.stderr.split())
    assert "params.yaml" in committed and "data/" not in committed

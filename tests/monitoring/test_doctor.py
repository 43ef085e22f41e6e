"""The doctor finds each planted trouble, names a remedy, and finds nothing on a sound machine."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from components.corpus.sources.emoji.characters import CLDR, EMOJI_TEST
from components.corpus.sources.emoji.images import COLOUR_FONT, LINE_ART_FONT
from components.quiet import TELEMETRY_OFF
from monitoring import doctor
from monitoring.doctor import Finding, diagnose

ROOT = Path(__file__).parents[2]


@pytest.fixture
def held_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_everything_is_looked_at_in_three_seconds_and_nothing_is_changed(tmp_path: Path) -> None:
    started = time.monotonic()
    findings = diagnose(tmp_path, ports=[0])
    assert time.monotonic() - started < 3
    assert {"Python", "packages", "port 0", "MLflow database", "Prefect home", "disk", "memory", "git", "dvc",
            "offline switches", "telemetry", "Triton", "text tower"} <= by_name(findings).keys()  # fmt: skip
    assert all(bool(finding.remedy) != finding.ok and finding.detail for finding in findings)
    assert not list(tmp_path.iterdir())


def test_the_files_are_those_that_the_corpus_reads() -> None:
    assert set(doctor.SYSTEM_FILES) == {COLOUR_FONT, LINE_ART_FONT, CLDR / "annotations" / "en.xml", EMOJI_TEST}


def test_it_imports_nothing_heavy() -> None:
    code = "import sys, monitoring.doctor; print({'pydantic', 'numpy', 'torch', 'mlflow'} & sys.modules.keys())"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "set()"


def test_a_missing_font_names_its_package(tmp_path: Path) -> None:
    findings = diagnose(tmp_path, ports=[], system_files={tmp_path / "Absent.ttf": "fonts-absent"})
    finding = by_name(findings)["file Absent.ttf"]
    assert not finding.ok
    assert finding.remedy == "apt-get install fonts-absent"


def test_a_port_held_by_another_program_is_found(held_port: int, tmp_path: Path) -> None:
    finding = doctor.port(held_port, tmp_path / "triton.json")
    assert not finding.ok
    assert str(held_port) in finding.remedy


def test_a_free_port_is_fine(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number = listener.getsockname()[1]
    assert doctor.port(number, tmp_path / "triton.json").ok


def test_a_port_held_by_our_own_server_is_fine_until_that_has_died(held_port: int, tmp_path: Path) -> None:
    state = tmp_path / "triton.json"
    ports = {"http_port": held_port, "grpc_port": 1, "metrics_port": 2}
    state.write_text(json.dumps({"pid": os.getpid(), **ports}))
    assert doctor.port(held_port, state).ok
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    state.write_text(json.dumps({"pid": ended.pid, **ports}))
    assert not doctor.port(held_port, state).ok
    state.write_text("{")
    assert not doctor.port(held_port, state).ok


def test_a_corrupt_database_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    path = tmp_path / "mlflow.db"
    assert doctor.tracking_database(path).ok
    sqlite3.connect(path).execute("CREATE TABLE runs (id)").connection.close()
    assert doctor.tracking_database(path).ok
    path.write_bytes(b"this is no database" * 100)
    finding = doctor.tracking_database(path)
    assert not finding.ok
    assert "not a database" in finding.detail


def test_a_prefect_home_that_is_a_file_is_found(tmp_path: Path) -> None:
    assert doctor.prefect_home(tmp_path / "new" / "home").ok
    (tmp_path / "file").touch()
    assert not doctor.prefect_home(tmp_path / "file").ok


def test_packages_outside_their_ranges_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(*requirements: str) -> None:
        folder = tmp_path / "sample-1.dist-info"
        folder.mkdir(exist_ok=True)
        lines = ["Metadata-Version: 2.1", "Name: sample", "Version: 1"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")

    monkeypatch.syspath_prepend(tmp_path)
    install("pandas<3.1", "absent; extra == 'ray'", "absent; python_version < '3'")
    assert doctor.packages("sample") == Finding("packages", True, "1 within their ranges")
    install("pandas<1", "certainly-absent>=2")
    finding = doctor.packages("sample")
    assert not finding.ok
    assert "pandas" in finding.detail
    assert "certainly-absent is missing" in finding.detail
    assert not doctor.packages("certainly-absent").ok


@pytest.mark.system("git")
def test_a_folder_that_is_no_repository_is_found(tmp_path: Path) -> None:
    finding = doctor.program("git", tmp_path)
    assert not finding.ok
    assert "git init" in finding.remedy
    (tmp_path / ".git").mkdir()
    assert doctor.program("git", tmp_path).ok


def test_a_program_that_is_absent_is_found(tmp_path: Path) -> None:
    assert "not installed" in doctor.program("no-such-program", tmp_path).detail


def test_switches_that_disagree_are_found() -> None:
    switches = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    assert doctor.offline_switches(switches).ok
    assert not doctor.offline_switches(switches | {"TRANSFORMERS_OFFLINE": "0"}).ok


def test_telemetry_that_is_on_is_named() -> None:
    assert doctor.telemetry_switches(TELEMETRY_OFF).ok
    finding = doctor.telemetry_switches(TELEMETRY_OFF | {"MLFLOW_DISABLE_TELEMETRY": "false"})
    assert finding.detail == "MLFLOW_DISABLE_TELEMETRY"


def test_other_weights_than_the_expected_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"other")
    assert not doctor.text_tower(weights, hub_allowed=False).ok
    assert not doctor.text_tower(None, hub_allowed=False).ok
    assert doctor.text_tower(None, hub_allowed=True).ok


@pytest.mark.parametrize(
    ("system", "libc", "ok"),
    [("Linux", ("glibc", "2.36"), True), ("Linux", ("glibc", "2.31"), False), ("Linux", ("", ""), False),
     ("Darwin", ("", ""), False)],
)  # fmt: skip
def test_machines_without_triton_are_found(
    system: str, libc: tuple[str, str], ok: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    finding = doctor.triton_platform()
    assert finding.ok is ok
    assert bool(finding.remedy) is not ok


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (None, "params.yaml: missing"),
        ("serving: {http_port: [", "is not YAML"),
        ("serving: {http_port: 8000}", "params.yaml: corpus: is missing"),
        ("servng: {}", "did you mean 'serving'?"),
    ],
)
def test_broken_parameters_are_a_finding_and_the_usual_ports_are_looked_at(
    text: str | None, detail: str, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "params.yaml").write_text(text)
    findings = by_name(diagnose(tmp_path))
    assert not findings["params.yaml"].ok
    assert detail in findings["params.yaml"].detail
    assert {f"port {number}" for number in doctor.PORTS} <= findings.keys()


def test_the_ports_are_those_of_the_section_even_where_another_is_wrong(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["serving"] |= {"http_port": 18000, "grpc_port": 18001, "metrics_port": 18002}
    content["export"]["opset"] = 3
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    findings = by_name(diagnose(tmp_path))
    assert "export.opset" in findings["params.yaml"].detail
    assert {"port 18000", "port 18001", "port 18002"} <= findings.keys()


def test_the_shipped_parameters_are_sound() -> None:
    finding = doctor.parameters(ROOT / "params.yaml")
    assert finding.ok
    assert "embedline run" in finding.detail


def run_embedline(folder: Path, *arguments: str) -> tuple[int, str, bool]:
    """Returns the exit code of a command, what it said, and whether it imported torch."""
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
    code += f"sys.argv = ['embedline', *{arguments!r}]\nfrom cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    said, _, imported = done.stdout.strip().rpartition("\n")
    return done.returncode, said + done.stderr, imported == "True"


def test_the_command_speaks_in_an_empty_folder(tmp_path: Path) -> None:
    code, said, torch = run_embedline(tmp_path, "doctor")
    assert code == 1
    assert "params.yaml: missing" in said
    assert not torch


@pytest.mark.parametrize("arguments", [["doctor"], ["search", "a sad cat"], ["serve"]])
def test_no_command_that_serves_or_diagnoses_imports_torch(arguments: list[str], tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    code, said, torch = run_embedline(tmp_path, *arguments)
    assert code in (0, 1, 2)
    assert arguments[0] == "doctor" or "embedline: " in said
    assert not torch

"""make and install.sh, in folders that hold no more than they need."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SYSTEM_PACKAGES

ROOT = Path(__file__).parents[1]
AGAIN = ("artifacts/student/model", "checkpoints/vectors/one", ".dvc/tmp/lock", "search.html", ".data.partial/one")
KEPT = (
    *(".embedline/ledger.jsonl", ".embedline/mlflow.db", ".embedline/mlruns/1/model_card.md", ".embedline/logs/x.log"),
    *("data.dvc", "dvc.lock", "data/manifest.json", ".dvc/cache/files/md5/00/1", ".dvc/config", "params.yaml"),
)
FORGOTTEN = {".embedline", "dvc.lock", "data", ".dvc/cache"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What rounds leave, each file with a byte in it, beside the Makefile and an environment that is installed."""
    for name in ("Makefile", "install.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (*AGAIN, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    command = tmp_path / ".venv" / "bin" / "embedline"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli.main "$@"\n')
    command.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def make(folder: Path, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, input=answer, capture_output=True, text=True, timeout=300
    )


def present(folder: Path, names: tuple[str, ...]) -> set[str]:
    return {name for name in names if (folder / name).exists()}


def test_clean_deletes_only_what_the_stages_make_again(workspace: Path) -> None:
    cleaned = make(workspace, "clean")
    assert cleaned.returncode == 0, cleaned.stderr
    assert not present(workspace, AGAIN)
    assert present(workspace, KEPT) == set(KEPT)


@pytest.mark.parametrize("answer", ["", "no\n", "y\n"])
def test_reset_deletes_nothing_unless_the_answer_is_yes(answer: str, workspace: Path) -> None:
    refused = make(workspace, "reset", answer=answer)
    assert refused.returncode == 2 and "nothing was deleted" in refused.stderr
    assert ".embedline" in refused.stderr and "dvc.lock" in refused.stderr, "it says what it would delete"
    assert present(workspace, (*AGAIN, *KEPT)) == {*AGAIN, *KEPT}


@pytest.mark.parametrize(("arguments", "answer"), [(("reset",), "yes\n"), (("reset", "YES=1"), "")])
def test_reset_forgets_all_rounds(arguments: tuple[str, ...], answer: str, workspace: Path) -> None:
    done = make(workspace, *arguments, answer=answer)
    assert done.returncode == 0, done.stderr
    assert not present(workspace, (*AGAIN, *FORGOTTEN))
    assert present(workspace, KEPT) == {"data.dvc", ".dvc/config", "params.yaml"}


def which_torch(folder: Path, gpu: bool, answers: bool, **environment: str) -> tuple[str, str]:
    """Returns the index and the reason on a machine with no more programs than these."""
    programs = folder / "bin"
    programs.mkdir()
    scripts = {"python": "exit 0" if answers else "exit 1", **({"nvidia-smi": "exit 0"} if gpu else {})}
    for name, script in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "install.sh"), "--which-torch", "python"],
        env={"PATH": str(programs), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stderr.splitlines()) == 1
    return done.stdout.strip(), done.stderr


without_gpu = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="this machine has an NVIDIA GPU")


@without_gpu
def test_without_a_gpu_torch_is_a_cpu_build(tmp_path: Path) -> None:
    index, why = which_torch(tmp_path, gpu=False, answers=True)
    assert index == "https://download.pytorch.org/whl/cpu" and "no NVIDIA GPU" in why and index in why


@without_gpu
def test_an_index_of_cpu_builds_that_does_not_answer_is_not_used_and_that_is_said(tmp_path: Path) -> None:
    index, why = which_torch(tmp_path, gpu=False, answers=False)
    assert index == "default" and "https://download.pytorch.org/whl/cpu does not answer" in why


def test_with_a_gpu_torch_comes_from_the_default_index(tmp_path: Path) -> None:
    index, why = which_torch(tmp_path, gpu=True, answers=True)
    assert index == "default" and "has an NVIDIA GPU" in why


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("chosen", ["default", "https://example.org/simple"])
def test_torch_index_overrides_the_choice(chosen: str, gpu: bool, tmp_path: Path) -> None:
    index, why = which_torch(tmp_path, gpu=gpu, answers=True, TORCH_INDEX=chosen)
    assert index == chosen and "TORCH_INDEX says so" in why


def run_install(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Runs install.sh where every program that it calls writes down how, and no package is installed."""
    programs, calls = folder / "bin", folder / "calls"
    programs.mkdir()
    for name in ("apt-get", "python", "venv/bin/pip", "venv/bin/python"):
        program = programs / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\necho "{Path(name).name} $*" >>{calls}\n')
        program.chmod(0o755)
    for name, script in {"dpkg-query": "exit 1", "id": "echo 0", "grep": "exit 1"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(ROOT / "install.sh"), *(argument.format(programs) for argument in arguments)],
        env={"PATH": str(programs), "TORCH_INDEX": "https://example.org/simple"},
        capture_output=True,
        text=True,
    )
    return done, calls.read_text().splitlines()


def test_debian_packages_are_named_before_they_are_installed_as_root(tmp_path: Path) -> None:
    done, calls = run_install(tmp_path, "--system", "fonts-one", "two")
    assert done.returncode == 0, done.stderr
    assert "as root" in done.stdout and "fonts-one two" in done.stdout
    assert calls == ["apt-get update -qq", "apt-get install -y -qq fonts-one two"], "and nothing else is installed"


def test_pip_gets_the_index_that_was_chosen(tmp_path: Path) -> None:
    done, calls = run_install(tmp_path, "python", "{}/venv")
    assert done.returncode == 0, done.stderr
    installs = [call for call in calls if call.startswith("pip ")]
    assert "--extra-index-url https://example.org/simple -r requirements.lock" in installs[0]
    assert "PyTorch comes from the index https://example.org/simple" in done.stderr


def test_make_system_installs_the_debian_packages_alone(workspace: Path) -> None:
    planned = make(workspace, "--dry-run", "system").stdout
    assert "install.sh --system fonts-noto-color-emoji" in planned and "pip" not in planned


def test_the_packages_that_tests_wait_for_are_those_of_the_makefile() -> None:
    (listed,) = re.findall(r"^SYSTEM := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(SYSTEM_PACKAGES) == set(listed.split())


def test_a_test_is_skipped_with_the_reason_where_its_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\nSYSTEM_PACKAGES['git'] = False\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.system('git')\ndef test_git(): 1 / 0\n"
        "@pytest.mark.system()\ndef test_all(): 1 / 0\n"
        "def test_none(): 1 / 0\n"
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rs",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        str(tmp_path),
    ]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert "needs the Debian packages git; `make system` installs them" in done.stdout
    assert "1 failed, 2 skipped" in done.stdout


WHERE = """
import os, time
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_where(number):
    time.sleep(0.1)
    with Path(__file__).with_suffix(".txt").open("a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + chr(10))
"""


@pytest.mark.parametrize(
    ("distribution", "alone"), [(None, True), ("load", False)], ids=["as the Makefile says", "load"]
)
def test_the_tests_of_a_file_run_on_one_worker_and_share_its_fixtures(
    tmp_path: Path, distribution: str | None, alone: bool
) -> None:
    """pytest-xdist 3.8 takes `--dist loadgroup` and groups nothing with pytest 9.2."""
    said = re.findall(r"pytest .* (-n 2 --dist (\w+))", (ROOT / "Makefile").read_text(), re.M)
    assert len(said) == len(set(said)) + 1 == 2
    for name in ("one", "two"):
        (tmp_path / f"test_{name}.py").write_text(WHERE)
    command = [sys.executable, "-m", "pytest", "-p", "xdist", "-n", "2", "--dist", distribution or said[0][1], "."]
    alone_with_xdist = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    subprocess.run(command, cwd=tmp_path, env=alone_with_xdist, check=True, capture_output=True)
    workers = [set((tmp_path / f"test_{name}.txt").read_text().split()) for name in ("one", "two")]
    assert all(len(found) == 1 for found in workers) is alone

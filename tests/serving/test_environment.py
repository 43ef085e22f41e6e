"""The server's environment is small, made once and whole, and where it cannot be made the container is named."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
import sys
from collections import namedtuple
from importlib.metadata import version
from pathlib import Path

import pytest

from components.errors import EmbedlineError
from serving import environment as module
from serving.environment import CONTAINER, REQUIREMENTS, Environment, container_command, pins, prepare

MAKE = "from serving.environment import prepare; print(prepare().home)"


def test_it_holds_what_the_requirements_pin_and_nothing_else(environment: Environment) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(environment.python), "list", "--format=freeze"]
    installed = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.lower().split())
    assert {line for line in installed if not line.startswith("setuptools==")} == set(pins(REQUIREMENTS))


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers", "pillow"])
def test_the_model_answers_with_the_packages_that_it_was_scored_with(package: str) -> None:
    assert f"{package}=={version(package)}" in pins(REQUIREMENTS)


@pytest.mark.slow
def test_two_that_need_it_at_once_make_it_once_also_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDLINE_TRITON_HOME", str(tmp_path))
    partial = tmp_path / f".triton-{module.digest()}.partial"
    (partial / "bin").mkdir(parents=True)
    (partial / "bin" / "python").write_text("half")
    makers = [subprocess.Popen([sys.executable, "-c", MAKE], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    homes = {maker.communicate(timeout=300)[0].strip() for maker in makers}
    assert homes == {str(prepare().home)}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [prepare().home.name]
    stub = prepare().backends / "python" / "triton_python_backend_stub"
    assert stub.stat().st_mode & 0o111


@pytest.mark.slow
def test_an_installation_that_fails_leaves_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "requirements.txt"
    wrong.write_text("numpy==0.0.0\n")
    monkeypatch.setattr(module, "REQUIREMENTS", wrong)
    monkeypatch.setenv("EMBEDLINE_TRITON_HOME", str(tmp_path / "home"))
    with pytest.raises(EmbedlineError, match=r"No matching distribution found for numpy==0\.0\.0"):
        prepare()
    assert [path for path in (tmp_path / "home").iterdir() if path.is_dir()] == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EMBEDLINE_TRITON_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(EmbedlineError, match="cannot be made in") as caught:
        prepare()
    assert "EMBEDLINE_TRITON_HOME" in caught.value.remedy


Version = namedtuple("Version", ["major", "minor"])


@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (platform, "system", lambda: "Darwin", "built for Linux on x86_64, and this is Darwin"),
        (platform, "machine", lambda: "aarch64", "this is Linux on aarch64"),
        (platform, "libc_ver", lambda: ("glibc", "2.31"), "needs glibc 2.35 or newer, and this system has glibc 2.31"),
        (platform, "libc_ver", lambda: ("", ""), "this system has another C library"),
        (sys, "version_info", Version(3, 13), "needs Python 3.11 or 3.12, and this is 3.13"),
    ],
)
def test_where_triton_cannot_run_the_container_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, value: object, reason: str
) -> None:
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(EmbedlineError, match=reason) as caught:
        prepare(tmp_path)
    monkeypatch.undo()
    assert container_command(tmp_path) in caught.value.remedy


def test_the_container_command_serves_the_repository_on_the_loopback_with_the_pinned_packages(tmp_path: Path) -> None:
    words = shlex.split(container_command(tmp_path))
    assert words[:2] == ["docker", "run"]
    assert f"{tmp_path}:/models:ro" in words and CONTAINER in words
    assert [word for word in words if word.endswith(":8000")] == ["127.0.0.1:8000:8000"]
    assert "--model-repository=/models" in words[-1] and "onnxruntime==" in words[-1]
    assert "nvidia-pytriton" not in words[-1]


def test_the_container_command_loads_the_towers_of_a_layout_on_the_gpu_and_keeps_answers(tmp_path: Path) -> None:
    for name, kind in (("embedder", "KIND_CPU"), ("text_tower", "KIND_GPU"), ("challenger", "KIND_CPU")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(f"instance_group [ {{ kind: {kind} }} ]")
    words = shlex.split(container_command(tmp_path, cache_bytes=1000))
    assert "--gpus=all" in words
    assert re.findall(r"--load-model=(\w+)", words[-1]) == ["embedder", "text_tower"]
    assert "--cache-config=local,size=1000" in words[-1]
    (tmp_path / "text_tower" / "config.pbtxt").unlink()
    plain = container_command(tmp_path)
    assert "--gpus" not in plain
    assert "--cache-config" not in plain

"""`embedline export` as a user calls it: an untrained model on the data of another."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from components.backends.directory import open_directory
from components.config import PARAMETERS
from components.corpus import Item
from components.embedder import Embedder, OnnxEmbedder
from components.embedder.dual_encoder import save
from components.errors import UsageError
from components.export.config import Export
from components.export.export import require_former_export
from components.export.tensorrt.settings import TensorRT
from tests.cli.conftest import Called
from tests.export.conftest import EXPORT, make_data, make_encoder

REPOSITORY = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "120"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("workspace")
    shutil.copy(REPOSITORY / PARAMETERS, workspace)
    make_data(workspace / "data")
    save(make_encoder(seed=1), workspace / "model")
    return workspace


def embedline(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "export", *arguments]
    return subprocess.run(command, cwd=workspace, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_model_is_exported_and_its_variants_shown(workspace: Path) -> None:
    done = embedline(workspace, "model", "--output", "exported", "--variants", "fp32,int8", "--json")
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert reported["output"] == "exported" and reported["variants"].keys() == {"fp32", "int8"}
    for name, found in reported["variants"].items():
        files = [file for file in (workspace / "exported" / name).rglob("*") if file.is_file()]
        assert found["bytes"] == sum(file.stat().st_size for file in files)
        assert found["minimum"] > 0.97
    reference = open_directory(str(workspace / "model"), 8)
    assert isinstance(reference, Embedder)
    some = [Item("word3 word4"), Item("word5", instruction="word6")]
    np.testing.assert_allclose(
        OnnxEmbedder(workspace / "exported" / "fp32").encode(some), reference.encode(some), atol=1e-5
    )
    shown = embedline(workspace, "model", "--output", "exported", "--variants", "fp32")
    assert shown.returncode == 0 and "least cosine" in shown.stdout and "fp32" in shown.stdout
    assert not (workspace / "exported" / "int8").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("model", "--output", "new", "--variants", "fp64"), "'fp64' is not in export.variants, which has fp32, int8"),
        (("nowhere", "--output", "new"), "nowhere: no such directory"),
        (("data", "--output", "new"), "data: no model that can be exported; the classes are"),
        (("model", "--output", "data"), "data: is there, and holds no export"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    workspace: Path, call: Callable[..., Called], arguments: tuple[str, ...], said: str
) -> None:
    before = sorted(workspace.rglob("*"))
    code, _, errors = call(workspace, "export", *arguments)
    assert code == UsageError.exit_code and said in errors.replace("\n", " ")
    assert sorted(workspace.rglob("*")) == before


def test_without_data_it_says_how_to_get_some(workspace: Path, call: Callable[..., Called], tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / PARAMETERS, tmp_path)
    code, _, errors = call(tmp_path, "export", str(workspace / "model"), "--output", "new")
    assert code == UsageError.exit_code
    assert "no training items" in errors and "embedline ingest" in errors
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@pytest.mark.slow
def test_engines_are_built_where_they_are_asked_for(workspace: Path) -> None:
    done = embedline(workspace, "model", "--output", "engines", "--variants", "fp32", "--tensorrt")
    assert done.returncode == 0, done.stderr
    folder = workspace / "engines" / "tensorrt"
    report = json.loads((folder / "tensorrt.json").read_text(encoding="utf-8"))
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"text", "image"} and report["parity"]
    assert not (workspace / "exported" / "tensorrt").exists(), "and nowhere else"


@pytest.mark.parametrize(("value", "expected"), [(True, TensorRT()), (False, None), ({}, TensorRT()), (None, None)])
def test_the_settings_of_tensorrt_may_be_a_switch(value: object, expected: TensorRT | None) -> None:
    assert Export.model_validate({**EXPORT.model_dump(), "tensorrt": value}).tensorrt == expected


def test_some_of_the_variants_are_chosen() -> None:
    settings = Export.model_validate(yaml.safe_load((REPOSITORY / PARAMETERS).read_text(encoding="utf-8"))["export"])
    assert settings.only(["int8"]).names == ["int8"]
    assert EXPORT.only(["int8", "fp32"]).names == ["fp32", "int8"]


def test_only_an_earlier_export_is_written_over(tmp_path: Path) -> None:
    require_former_export(tmp_path / "new")
    with pytest.raises(UsageError, match="holds no export"):
        require_former_export(tmp_path)
    (tmp_path / "parity.json").write_text("{}")
    require_former_export(tmp_path)

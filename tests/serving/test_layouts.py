"""A container's layout answers as the default one does, and the response cache answers what was asked, not what it has.

Backends for ONNX Runtime and TensorRT are in containers only, so the graphs are computed here by python models of the
same names and tensors, which run the same files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.backends.tiny import write_tiny
from components.backends.whole_model import PoolingMode, load_whole
from components.corpus.item import Item
from components.embedder import OnnxEmbedder
from components.errors import EmbedlineError
from components.export.bundle import RESPONSE_CACHE
from components.export.exporters import exporter_of
from components.export.layouts import write_repository
from serving import TritonEmbedder, TritonServer, deploy
from serving.client import connect
from serving.environment import Environment
from tests.serving.conftest import make_bundle

pytestmark = pytest.mark.slow  # a server of its own

Png = Callable[..., bytes]
STAND_IN = """
import json
from pathlib import Path
import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        self.outputs = [output["name"] for output in json.loads(args["model_config"])["output"]]
        (graph,) = Path(__file__).parent.glob("*.onnx")
        self.session = onnxruntime.InferenceSession(str(graph))

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        answers = self.session.run(self.outputs, {tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
        return pb_utils.InferenceResponse([pb_utils.Tensor(*pair) for pair in zip(self.outputs, answers)])
"""
VERSION = 7


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "one", seed=1)


def lay_out(bundle: Path, repository: Path) -> list[str]:
    """Writes the repository of a container, whose graphs are computed by stand-ins; returns its models, the graphs'
    first."""
    models = write_repository(bundle, VERSION, "onnxruntime", repository, on_gpu=False)
    for name in models[1:]:
        file = repository / name / "config.pbtxt"
        config = file.read_text().replace('backend: "onnxruntime"', 'backend: "python"')
        file.write_text(config.replace("default_model_filename", "# default_model_filename"))
        (repository / name / str(VERSION) / "model.py").write_text(STAND_IN)
    return [*models[1:], models[0]]


@pytest.fixture(scope="module")
def layout_server(
    environment: Environment, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """Serves `embedder`, whose graphs are models of their own, and `cached`, the default layout with a cache."""
    home = tmp_path_factory.mktemp("workspace")
    repository = home / "model_repository"
    models = lay_out(bundle, repository)
    shutil.copytree(bundle / "version", repository / "cached" / str(VERSION))
    config = (bundle / "config.pbtxt").read_text().replace('"embedder"', '"cached"') + RESPONSE_CACHE
    (repository / "cached" / "config.pbtxt").write_text(config)
    with TritonServer.start(home, 0, 0, 0, environment=environment, cache_bytes=16_000_000) as server:
        with connect(server.url, 60) as client:
            for name in (*models, "cached"):
                client.load_model(name, headers=server.admin_headers)
        yield server


@pytest.fixture
def items(png: Png) -> list[Item]:
    return [
        Item(text="a sad cat"),
        Item(image=png("red")),
        Item(text="cat", image=png("yellow", (7, 31)), instruction="find the image"),
        Item(text="dog", instruction="find"),
        Item(image=png("red")),
    ]


def executions(server: TritonServer, model: str) -> int:
    return int(statistics(server, model)["execution_count"])


def cache_hits(server: TritonServer, model: str) -> int:
    return int(statistics(server, model)["inference_stats"]["cache_hit"]["count"])


def statistics(server: TritonServer, model: str) -> dict[str, Any]:
    """Returns what Triton has counted, once it counts no more: it does so after it has answered."""
    with connect(server.url, 10) as client:
        found: list[dict[str, Any]] = [{}]
        for _ in range(100):
            found.append(client.get_inference_statistics(model)["model_stats"][0])
            if found[-1] == found[-2]:
                break
            time.sleep(0.2)
    return found[-1]


def test_graphs_as_models_of_their_own_answer_as_the_default_layout(
    layout_server: TritonServer, bundle: Path, items: list[Item]
) -> None:
    split, whole = TritonEmbedder(layout_server.url), TritonEmbedder(layout_server.url, "cached")
    np.testing.assert_allclose(split.encode(items), whole.encode(items), atol=1e-6)
    for dimension in (16, 32):
        np.testing.assert_allclose(split.encode(items, dimension), whole.encode(items, dimension), atol=1e-6)
    assert not list((layout_server.repository / "embedder").rglob("*.onnx")), "it must have asked the other models"


def test_a_tower_is_asked_only_for_what_there_is(layout_server: TritonServer, items: list[Item]) -> None:
    embedder = TritonEmbedder(layout_server.url)
    before = [executions(layout_server, name) for name in ("text_tower", "image_tower")]
    embedder.encode([items[0]])
    assert [executions(layout_server, name) for name in ("text_tower", "image_tower")] == [before[0] + 1, before[1]]
    embedder.encode([items[1], items[4]])
    assert [executions(layout_server, name) for name in ("text_tower", "image_tower")] == [before[0] + 1, before[1] + 1]


@pytest.mark.parametrize(("architecture", "pooling"), [("clip", None), ("qwen2_vl", "lasttoken")])
def test_the_graphs_of_a_whole_model_are_models_of_their_own_too(
    architecture: str,
    pooling: PoolingMode | None,
    environment: Environment,
    items: list[Item],
    bundle: Path,
    tmp_path: Path,
) -> None:
    write_tiny(architecture, tmp_path / "tiny", seed=3)
    load_whole(str(tmp_path / "tiny"), pooling, 3).save(str(tmp_path / "model"), create_model_card=False)
    version = tmp_path / "bundle" / "version"
    exporter_of(tmp_path / "model").export(tmp_path / "model", version, 20)
    embedder = OnnxEmbedder(version, 8, threads=1)
    for name in ("config.pbtxt", "bundle.json"):
        shutil.copy(bundle / name, tmp_path / "bundle")
    shutil.copy(bundle / "version" / "model.py", version)
    models = lay_out(tmp_path / "bundle", tmp_path / "workspace" / "model_repository")
    with TritonServer.start(tmp_path / "workspace", 0, 0, 0, environment=environment) as server:
        with connect(server.url, 60) as client:
            for name in models:
                client.load_model(name, headers=server.admin_headers)
        answered = TritonEmbedder(server.url).encode(items)
        np.testing.assert_allclose(answered, embedder.encode(items), atol=1e-5)
        assert all(executions(server, name) for name in models)


def test_a_bad_item_is_its_own_fault_and_a_missing_tower_is_not(layout_server: TritonServer, items: list[Item]) -> None:
    embedder = TritonEmbedder(layout_server.url)
    with pytest.raises(EmbedlineError, match="refused item 2: the image cannot be decoded"):
        embedder.encode([items[0], Item(image=b"broken")])
    with connect(layout_server.url, 60) as client:
        client.unload_model("image_tower", headers=layout_server.admin_headers)
        with pytest.raises(EmbedlineError, match=r"cannot answer by .*image_tower"):
            embedder.encode([items[1]])
        assert embedder.encode([items[0]]).shape == (1, 32)
        client.load_model("image_tower", headers=layout_server.admin_headers)


def test_the_probe_of_containers_and_the_metrics_of_the_autoscaler_are_of_a_real_triton(
    layout_server: TritonServer,
) -> None:
    deploy = Path(__file__).parents[2] / "serving" / "deploy"
    codes = {}
    for model in ("embedder", "cached", "text_tower", "nothing"):
        command = [sys.executable, "-I", "-S", str(deploy / "probe.py"), layout_server.url, model]
        codes[model] = subprocess.run(command, capture_output=True, timeout=30).returncode
    assert codes == {"embedder": 0, "cached": 0, "text_tower": 1, "nothing": 1}
    with urllib.request.urlopen(layout_server.metrics_url, timeout=10) as answer:
        there = set(re.findall(r"^(nv_\w+)", answer.read().decode(), re.MULTILINE))
    asked = set(re.findall(r"nv_\w+", (deploy / "kubernetes" / "prometheus_adapter.yaml").read_text(encoding="utf-8")))
    assert asked
    assert asked <= there


def test_the_cache_answers_what_was_asked_before_and_nothing_else(
    layout_server: TritonServer, items: list[Item]
) -> None:
    embedder, uncached = TritonEmbedder(layout_server.url, "cached"), TritonEmbedder(layout_server.url)
    before, hits = executions(layout_server, "cached"), cache_hits(layout_server, "cached")
    asked = [Item(text="happy red dog")]
    first = embedder.encode(asked)
    np.testing.assert_array_equal(embedder.encode(asked), first)
    other = [Item(text="happy red cat")]
    np.testing.assert_allclose(embedder.encode(other), uncached.encode(other), atol=1e-6)
    assert cache_hits(layout_server, "cached") == hits + 1, "the second answer alone must be of the cache"
    assert executions(layout_server, "cached") == before + 2
    cut = embedder.encode(asked, 16)
    np.testing.assert_allclose(cut, uncached.encode(asked, 16), atol=1e-6)


def test_a_version_with_a_cache_answers_on_a_server_without_one(
    environment: Environment, bundle: Path, tmp_path: Path
) -> None:
    """As where a challenger is tried before it is promoted."""
    cached = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    with (cached / "config.pbtxt").open("a", encoding="utf-8") as config:
        config.write(RESPONSE_CACHE)
    with TritonServer.start(tmp_path / "workspace", 0, 0, 0, environment=environment) as server:
        assert deploy(server, cached, 1) == [1]

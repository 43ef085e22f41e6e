"""Every configuration is one that Triton's own protobuf reads, and a layout that cannot serve the bundle is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from tritonclient.grpc.model_config_pb2 import ModelConfig

from components.errors import UsageError
from components.export.bundle import triton_config
from components.export.capacity import Capacity, candidates, choose_capacity
from components.export.config import Serving
from components.export.layouts import write_repository
from components.export.tensorrt.engine import Engine, free_axes
from components.export.tensorrt.graph import Profile, signature
from components.export.tensorrt.triton import triton_config as engine_config
from components.files import file_sha256
from serving.triton import SELF_TEST
from tests.export.conftest import SERVING

Packaged = Callable[[str], Path]


def parsed(text: str) -> Any:
    """Returns the configuration. Raises `text_format.ParseError` if it is none."""
    return text_format.Parse(text, ModelConfig())


def write_engine(bundle: Path, engines: Path, name: str, builder: str = "tensorrt") -> Engine:
    """Returns an engine of no content beside its description, as `export_tensorrt` lays them."""
    graph = bundle / "version" / f"{name}.onnx"
    found = signature(graph)
    folder = engines / name / "1"
    folder.mkdir(parents=True)
    (folder / f"{name}.plan").write_bytes(b"engine")
    inputs, outputs = map(free_axes, (found.inputs, found.outputs))
    profiles = {
        one.name: Profile(*(tuple(size if axis == -1 else int(axis) for axis in one.shape) for size in (1, 8, 24)))
        for one in inputs
    }
    sums = file_sha256(graph), "", ""
    engine = Engine(f"{name}.plan", builder, "11", (), "fp16", (), graph.name, "", *sums, 6, inputs, outputs, profiles)
    engine.write(folder)
    return engine


@pytest.fixture
def repositories(packaged: Packaged, tmp_path: Path) -> dict[str, Path]:
    bundle = packaged("bundle")
    for name in ("text", "image"):
        write_engine(bundle, tmp_path / "engines", name)
    write_repository(bundle, 3, "onnxruntime", tmp_path / "onnxruntime")
    write_repository(bundle, 3, "tensorrt", tmp_path / "tensorrt", tmp_path / "engines")
    return {layout: tmp_path / layout for layout in ("onnxruntime", "tensorrt")}


def test_every_configuration_is_one_of_tritons(
    packaged: Packaged, repositories: dict[str, Path], tmp_path: Path
) -> None:
    cached = SERVING.model_copy(update={"response_cache_bytes": 1_000_000})
    texts = [
        (packaged("other") / "config.pbtxt").read_text(encoding="utf-8"),
        triton_config(cached, Capacity(2, 3)),
        (SELF_TEST / "self_test" / "config.pbtxt").read_text(encoding="utf-8"),
        engine_config("text", write_engine(packaged("third"), tmp_path / "more", "text")),
        *(file.read_text(encoding="utf-8") for folder in repositories.values() for file in folder.rglob("*.pbtxt")),
    ]
    assert len(texts) == 4 + 2 * 3
    for text in texts:
        assert parsed(text).name
        for wrong in ("max_batchsize: 3", "instance_group [ { count: many } ]", "input [ { nme: 'X' } ]"):
            with pytest.raises(text_format.ParseError):
                parsed(f"{text}\n{wrong}\n")


def test_settings_reach_the_configuration() -> None:
    plain = parsed(triton_config(SERVING, Capacity(2, 3)))
    assert (plain.instance_group[0].count, plain.parameters["threads"].string_value) == (3, "2")
    assert plain.HasField("dynamic_batching")
    assert plain.dynamic_batching.max_queue_delay_microseconds == 0
    assert not plain.response_cache.enable
    cached = SERVING.model_copy(update={"response_cache_bytes": 1_000_000})
    assert parsed(triton_config(cached, Capacity(2, 3))).response_cache.enable


@pytest.mark.parametrize(
    ("layout", "platform", "suffix"),
    [("onnxruntime", ("onnxruntime", ""), "onnx"), ("tensorrt", ("", "tensorrt_plan"), "plan")],
)
def test_a_layout_holds_the_python_model_without_graphs_and_each_graph_as_a_model(
    repositories: dict[str, Path], packaged: Packaged, layout: str, platform: tuple[str, str], suffix: str
) -> None:
    repository, bundle = repositories[layout], packaged("again")
    files = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    embedder = {"model.py", "runtime.py", "embedder.json", "tokenizer.json"}
    assert files == {
        "embedder/config.pbtxt",
        *(f"embedder/3/{name}" for name in embedder),
        *(f"{name}_tower/config.pbtxt" for name in ("text", "image")),
        *(f"{name}_tower/3/{name}.{suffix}" for name in ("text", "image")),
    }
    python = parsed((repository / "embedder" / "config.pbtxt").read_text())
    assert python.parameters["graphs"].string_value == "triton"
    assert python.parameters["batch_size"].string_value == ("24" if layout == "tensorrt" else "")
    for name in ("text", "image"):
        config, graph = (
            parsed((repository / f"{name}_tower" / "config.pbtxt").read_text()),
            signature(bundle / "version" / f"{name}.onnx"),
        )
        assert (config.backend, config.platform) == platform
        assert config.default_model_filename == f"{name}.{suffix}"
        assert config.max_batch_size == 0
        assert [one.name for one in config.input] == [one.name for one in graph.inputs]
        assert [one.name for one in config.output] == [one.name for one in graph.outputs]
        assert all(len(one.dims) == len(two.shape) for one, two in zip(config.input, graph.inputs, strict=True))
        (warm_up,) = config.model_warmup
        assert set(warm_up.inputs) == {one.name for one in graph.inputs}
        assert all(min(sample.dims) > 0 for sample in warm_up.inputs.values())


def test_what_no_backend_would_load_is_refused(packaged: Packaged, tmp_path: Path) -> None:
    bundle, output = packaged("bundle"), tmp_path / "repository"
    with pytest.raises(UsageError, match=r"no engine of image.onnx"):
        write_repository(bundle, 3, "tensorrt", output)
    for name in ("text", "image"):
        write_engine(bundle, tmp_path / "rtx", name, builder="rtx")
    with pytest.raises(UsageError, match=r"was built by rtx, which Triton does not load"):
        write_repository(bundle, 3, "tensorrt", output, tmp_path / "rtx")
    for name in ("text", "image"):
        write_engine(bundle, tmp_path / "older", name)
    with (bundle / "version" / "text.onnx").open("ab") as graph:
        graph.write(b"\x50\x00")
    with pytest.raises(UsageError, match=r"text.plan was built from another graph"):
        write_repository(bundle, 3, "tensorrt", output, tmp_path / "older")
    for graph_file in (bundle / "version").glob("*.onnx"):
        graph_file.rename(graph_file.with_suffix(".xml"))
    with pytest.raises(UsageError, match="holds no ONNX graph"):
        write_repository(bundle, 3, "onnxruntime", output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("threads", "instances", "expected"),
    [
        (2, 1, [(2, 1)]),
        (None, 2, [(4, 2)]),
        (2, None, [(2, 4)]),
        (None, None, [(8, 1), (4, 2), (2, 4), (1, 8)]),
        (None, 16, [(1, 16)]),
    ],
)
def test_all_processors_are_used_once(threads: Any, instances: Any, expected: list[tuple[int, int]]) -> None:
    config = SERVING.model_copy(update={"threads": threads, "instances": instances})
    assert [(one.threads, one.instances) for one in candidates(config, processors=8)] == expected


def test_what_answers_the_most_items_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The measurements are given, so that the choice is known."""
    measured = {8: [10.0, 30.0, 20.0], 4: [25.0, 20.0, 40.0], 2: [39.0, 5.0, 5.0], 1: [1.0, 1.0, 1.0]}
    monkeypatch.setattr("components.export.capacity.throughput", lambda option, *_: measured[option.threads].pop(0))
    monkeypatch.setattr("components.export.capacity.os.cpu_count", lambda: 8)
    config = SERVING.model_copy(update={"threads": None, "instances": None})
    chosen, tried = choose_capacity(config, tmp_path, [])
    assert chosen == Capacity(4, 2, 40.0)
    assert [one.items_per_second for one in tried] == [30.0, 40.0, 39.0, 1.0]
    assert choose_capacity(SERVING, tmp_path, []) == (Capacity(1, 1), [])


def test_auto_is_read_and_written_as_such() -> None:
    config = Serving.model_validate(SERVING.model_dump() | {"threads": "auto"})
    assert (config.threads, config.instances) == (None, 1)
    assert (config.model_dump()["threads"], config.model_dump()["instances"]) == ("auto", 1)

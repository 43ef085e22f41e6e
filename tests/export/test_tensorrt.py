"""Engines are what was asked of them: real ones are built and read back here, without a GPU; what is wrong is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from PIL import Image
from pydantic import ValidationError

from components.config import read
from components.corpus import Item
from components.embedder.dual_encoder import save
from components.errors import Refused, UsageError
from components.export.export import export
from components.export.exporters.dual_encoder import write_encoder
from components.export.tensorrt.builders import available_builders, builder_of
from components.export.tensorrt.building import build_engine, build_plan
from components.export.tensorrt.casting import cast, in_range
from components.export.tensorrt.engine import Engine, description
from components.export.tensorrt.execution import EngineSession
from components.export.tensorrt.export import export_tensorrt, literal_session
from components.export.tensorrt.gpu import missing_gpu
from components.export.tensorrt.graph import Profile, profiles, signature
from components.export.tensorrt.reading import read_engine
from components.export.tensorrt.settings import Range, TensorRT
from components.export.variants import int8
from components.training.towers import build_towers
from tests.export.conftest import EXPORT, FP32, MAX_TOKENS, WORDS, make_encoder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx, the extra `tensorrt`, is not installed"
)
without_gpu = pytest.mark.skipif(missing_gpu() is None, reason="here is a GPU, which runs engines")
SETTINGS = TensorRT(
    builder="rtx",
    precision="fp16",
    parity_cosine=0.999,
    parity_items=4,
    calibration_items=12,
    targets=[],
    batch=Range(min=1, opt=8, max=32),
    length=Range(min=1, opt=8, max=MAX_TOKENS),
)
TEXT, IMAGE = "text/1/text.rtx-1.7.1.sm80-plus.fp16.engine", "image/1/image.rtx-1.7.1.sm80-plus.fp16.engine"


def changed(**fields: Any) -> TensorRT:
    return TensorRT.model_validate(SETTINGS.model_dump() | fields)


def items(count: int = 12) -> list[Item]:
    noise = np.random.default_rng(7)
    found = []
    for number in range(count):
        text = " ".join(noise.choice(WORDS[2:], 1 + number))
        image = Image.fromarray(noise.integers(0, 256, (5, 5, 3), np.uint8)).resize((8 + 7 * number, 60 - number))
        found.append((Item(text, None), Item(None, image), Item(text, image))[number % 3])
    return found


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported directory in float32."""
    folder = tmp_path_factory.mktemp("graphs") / "fp32"
    write_encoder(make_encoder(seed=1), folder, opset=20)
    return folder


@pytest.fixture(scope="module")
def built(graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("engines") / "tensorrt"
    export_tensorrt(graphs, output, SETTINGS, items())
    return output


@pytest.fixture
def engines(built: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return shutil.copytree(built, tmp_path / "engines")


def report_of(output: Path) -> Any:
    return json.loads((output / "tensorrt.json").read_text(encoding="utf-8"))


def test_both_towers_of_the_shipped_student_become_engines_that_take_what_was_asked(tmp_path: Path) -> None:
    recipe = read(Path(__file__).parents[2] / "params.yaml").distillation
    graphs, side = tmp_path / "fp32", recipe.backbone.image.image_size
    write_encoder(build_towers(recipe.backbone, [], seed=0), graphs, opset=20)
    settings = changed(batch={"min": 1, "opt": 16, "max": 64}, length={"min": 1, "opt": 16, "max": 32})
    image, text = export_tensorrt(graphs, tmp_path / "tensorrt", settings, items())
    assert text.profiles == dict.fromkeys(("input_ids", "attention_mask"), Profile((1, 1), (16, 16), (64, 32)))
    assert image.profiles == {"pixel_values": Profile(*((size, 3, side, side) for size in (1, 16, 64)))}
    assert [(each.name, each.dtype, each.shape) for each in (*text.inputs, *text.outputs)] == [
        ("input_ids", "int64", (-1, -1)),
        ("attention_mask", "int64", (-1, -1)),
        ("sentence_embedding", "float", (-1, recipe.backbone.dimension)),
    ]
    assert [(each.name, each.dtype, each.shape) for each in (*image.inputs, *image.outputs)] == [
        ("pixel_values", "float", (-1, 3, side, side)),
        ("image_embedding", "float", (-1, recipe.backbone.dimension)),
    ]
    for engine, path in ((text, TEXT), (image, IMAGE)):
        graph = graphs / engine.graph
        assert read_engine(tmp_path / "tensorrt" / path, graph, settings) == engine
        assert 0.4 * graph.stat().st_size < engine.bytes < 0.7 * graph.stat().st_size, "the weights are half as large"


@pytest.mark.parametrize(
    ("precision", "weights"),
    [("fp32", TensorProto.FLOAT), ("bf16", TensorProto.BFLOAT16), ("int8", TensorProto.INT8)],
)
def test_every_precision_is_built(graphs: Path, tmp_path: Path, precision: str, weights: int) -> None:
    settings = changed(precision=precision, parity_cosine=0.97)
    image, _ = export_tensorrt(graphs, tmp_path / "tensorrt", settings, items())
    network = onnx.load(tmp_path / "tensorrt" / "image" / "1" / image.network)
    assert weights in {weight.data_type for weight in network.graph.initializer if len(weight.dims) == 4}
    steps = report_of(tmp_path / "tensorrt")["parity"]
    assert all(step["parity"]["minimum"] > 0.97 for step in steps) and bool(steps) == (precision != "fp32")
    if precision == "int8":
        kinds = {weight.data_type for weight in network.graph.initializer}
        assert TensorProto.UINT8 not in kinds
        zeros = [weight for weight in network.graph.initializer if weight.name.endswith("zero_point")]
        assert zeros and not any(numpy_helper.to_array(zero).any() for zero in zeros), "symmetric: zero is zero"


def test_the_settings_become_profiles(graphs: Path) -> None:
    found = signature(graphs / "text.onnx")
    assert profiles(found, SETTINGS)["input_ids"] == Profile((1, 1), (8, 8), (32, MAX_TOKENS))
    image = profiles(signature(graphs / "image.onnx"), SETTINGS)["pixel_values"]
    assert image.holds((32, 3, 32, 32)) and not image.holds((33, 3, 32, 32)) and not image.holds((1, 3, 16, 16))
    two_lengths = replace(found, inputs=(found.inputs[0], replace(found.inputs[1], shape=("other", "patches"))))
    with pytest.raises(Refused, match="other, patches"):
        profiles(two_lengths, SETTINGS)


@pytest.mark.parametrize(
    "wrong",
    [{"batch": {"min": 4, "opt": 2, "max": 8}}, {"length": {"min": 1, "opt": 9, "max": 8}}, {"builder": "other"}],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(**wrong)


def test_an_item_that_fits_no_profile_is_refused(graphs: Path, tmp_path: Path) -> None:
    short = changed(length={"min": 1, "opt": 4, "max": MAX_TOKENS - 1})
    with pytest.raises(Refused, match=r"text.onnx: .*input_ids .* is outside \(1, 1\) to \(32, 11\)"):
        export_tensorrt(graphs, tmp_path / "tensorrt", short, items())
    assert not (tmp_path / "tensorrt").exists()


@pytest.mark.parametrize("wrong", [{"batch": {"min": 1, "opt": 8, "max": 16}}, {"length": {"min": 2, "opt": 8, "max": 12}}])
def test_an_engine_with_another_profile_is_refused(graphs: Path, engines: Path, wrong: dict[str, Any]) -> None:
    assert read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS).precision == "fp16"
    with pytest.raises(Refused, match="the profiles are .* and should be"):
        read_engine(engines / TEXT, graphs / "text.onnx", changed(**wrong))


def test_a_description_that_claims_another_profile_is_refused(graphs: Path, engines: Path) -> None:
    larger = changed(batch={"min": 1, "opt": 8, "max": 64})
    wanted = profiles(signature(graphs / "text.onnx"), larger)
    replace(Engine.read(engines / TEXT), profiles=wanted).write((engines / TEXT).parent)
    with pytest.raises(Refused, match="was not built for|the profiles are"):
        read_engine(engines / TEXT, graphs / "text.onnx", larger)


def described_as_it_is(path: Path) -> None:
    """Makes the description vouch for the bytes that are there, so that only TensorRT can find them wrong."""
    from components.files import file_sha256

    found = json.loads(description(path).read_text(encoding="utf-8"))
    description(path).write_text(json.dumps(found | {"engine_sha256": file_sha256(path)}), encoding="utf-8")


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda plan: plan[:-1000], "plan.header.size == blobSize failed"),
    "no engine": (lambda plan: b"\0" * len(plan), "magicTag"),
    "another version": (lambda plan: plan[:24] + b"\x63" + plan[25:], "no whole engine of this version"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_tensorrt_refuses_what_is_no_whole_engine(graphs: Path, engines: Path, damage: str) -> None:
    spoil, reason = DAMAGE[damage]
    (engines / TEXT).write_bytes(spoil((engines / TEXT).read_bytes()))
    with pytest.raises(Refused, match="describes another text.rtx"):
        read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS)
    described_as_it_is(engines / TEXT)
    with pytest.raises(Refused, match=reason):
        read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS)


def test_one_changed_byte_is_refused(graphs: Path, engines: Path) -> None:
    plan = bytearray((engines / TEXT).read_bytes())
    plan[len(plan) // 2] ^= 1
    (engines / TEXT).write_bytes(plan)
    with pytest.raises(Refused, match="describes another text.rtx"):
        read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS)


def test_the_engine_of_another_graph_is_refused(graphs: Path, engines: Path, tmp_path: Path) -> None:
    write_encoder(make_encoder(seed=2), tmp_path / "other", opset=20)
    with pytest.raises(Refused, match=r"describes another text.onnx"):
        read_engine(engines / TEXT, tmp_path / "other" / "text.onnx", SETTINGS)
    with pytest.raises(Refused, match="does not describe an engine"):
        read_engine(engines / "text" / "missing.engine", graphs / "text.onnx", SETTINGS)


def test_a_node_that_the_parser_refuses_is_named(onnx_variants: Path, graphs: Path, tmp_path: Path) -> None:
    four_bits = onnx_variants / "int8" / "text.onnx"
    assert "MatMulNBits" in {node.op_type for node in onnx.load(onnx_variants / "int8" / "image.onnx").graph.node} | {
        node.op_type for node in onnx.load(four_bits).graph.node
    }
    wanted = profiles(signature(graphs / "text.onnx"), SETTINGS)
    quantize_dynamic(graphs / "image.onnx", tmp_path / "dynamic.onnx")
    node = next(node for node in onnx.load(tmp_path / "dynamic.onnx").graph.node if node.op_type.startswith("Dynamic"))
    with pytest.raises(Refused, match=f"{node.name}.*{node.op_type}"):
        build_plan(tmp_path / "dynamic.onnx", profiles(signature(graphs / "image.onnx"), SETTINGS), SETTINGS)
    assert wanted

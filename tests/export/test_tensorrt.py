"""Engines are what was asked of them: real ones are built and read back without a GPU; what is wrong is refused."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from PIL import Image
from pydantic import ValidationError

from components.config import read
from components.corpus import Item
from components.errors import Refused, UsageError
from components.export.export import export
from components.export.exporters.dual_encoder import write_encoder
from components.export.quantisation import quantise_products
from components.export.tensorrt.builders import BUILDERS, builder_of
from components.export.tensorrt.building import build_engine, build_plan
from components.export.tensorrt.casting import cast, in_range
from components.export.tensorrt.engine import Engine, description
from components.export.tensorrt.execution import EngineSession
from components.export.tensorrt.export import export_tensorrt, literal_session
from components.export.tensorrt.gpu import missing_gpu
from components.export.tensorrt.graph import Profile, profiles, signature
from components.export.tensorrt.reading import read_engine
from components.export.tensorrt.settings import Range, TensorRT
from components.files import file_sha256
from components.training.config import Towers
from components.training.towers import build_towers
from tests.export.conftest import EXPORT, FP32, MAX_TOKENS, WORDS, make_encoder

pytestmark = [
    pytest.mark.slow,  # real engines are built
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx, the extra `tensorrt`, is not installed"
    ),
]
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
    assert isinstance(recipe.backbone, Towers)
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


@pytest.mark.parametrize(
    "wrong", [{"batch": {"min": 1, "opt": 8, "max": 16}}, {"length": {"min": 2, "opt": 8, "max": 12}}]
)
def test_an_engine_with_another_profile_is_refused(graphs: Path, engines: Path, wrong: dict[str, Any]) -> None:
    assert read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS).precision == "fp16"
    with pytest.raises(Refused, match=r"the profiles are .* and should be"):
        read_engine(engines / TEXT, graphs / "text.onnx", changed(**wrong))


def test_a_description_that_claims_another_profile_is_refused(graphs: Path, engines: Path) -> None:
    larger = changed(batch={"min": 1, "opt": 8, "max": 64})
    wanted = profiles(signature(graphs / "text.onnx"), larger)
    replace(Engine.read(engines / TEXT), profiles=wanted).write((engines / TEXT).parent)
    with pytest.raises(Refused, match="was not built for"):
        read_engine(engines / TEXT, graphs / "text.onnx", larger)


def described_as_it_is(path: Path) -> None:
    """Makes the description vouch for the bytes that are there, so that only TensorRT can find them wrong."""
    found = json.loads(description(path).read_text(encoding="utf-8"))
    description(path).write_text(json.dumps(found | {"engine_sha256": file_sha256(path)}), encoding="utf-8")


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated": (lambda plan: plan[:-1000], "plan.header.size == blobSize failed"),
    "no engine": (lambda plan: b"\0" * len(plan), "magicTag"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_tensorrt_refuses_what_is_no_whole_engine(graphs: Path, engines: Path, damage: str) -> None:
    spoil, reason = DAMAGE[damage]
    (engines / TEXT).write_bytes(spoil((engines / TEXT).read_bytes()))
    with pytest.raises(Refused, match=r"describes another text\.rtx"):
        read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS)
    described_as_it_is(engines / TEXT)
    with pytest.raises(Refused, match=reason):
        read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS)


def test_one_changed_byte_is_refused(graphs: Path, engines: Path) -> None:
    plan = bytearray((engines / TEXT).read_bytes())
    plan[len(plan) // 2] ^= 1
    (engines / TEXT).write_bytes(plan)
    with pytest.raises(Refused, match=r"describes another text\.rtx"):
        read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS)


def test_an_engine_of_another_version_is_refused(graphs: Path, engines: Path) -> None:
    replace(Engine.read(engines / TEXT), version="1.7.0.0").write((engines / TEXT).parent)
    with pytest.raises(Refused, match=r"is of rtx 1\.7\.0\.0, and here is 1\.7\.1"):
        read_engine(engines / TEXT, graphs / "text.onnx", SETTINGS)


def test_the_engine_of_another_graph_is_refused(graphs: Path, engines: Path, tmp_path: Path) -> None:
    write_encoder(make_encoder(seed=2), tmp_path / "other", opset=20)
    with pytest.raises(Refused, match=r"describes another text.onnx"):
        read_engine(engines / TEXT, tmp_path / "other" / "text.onnx", SETTINGS)
    with pytest.raises(Refused, match="does not describe an engine"):
        read_engine(engines / "text" / "missing.engine", graphs / "text.onnx", SETTINGS)


def test_the_nodes_that_the_parser_refuses_are_named(graphs: Path, tmp_path: Path) -> None:
    image = onnx.load(graphs / "image.onnx")
    del image.graph.value_info[:]  # else the quantiser contradicts them
    quantize_dynamic(image, tmp_path / "dynamic.onnx")
    wanted = profiles(signature(graphs / "image.onnx"), SETTINGS)
    with pytest.raises(
        Refused, match=r"the node pixel_values_QuantizeLinear \(DynamicQuantizeLinear\): it has no such"
    ):
        build_plan(tmp_path / "dynamic.onnx", wanted, SETTINGS)
    onnx.save(quantise_products(one_product(), bits=4), tmp_path / "blocks.onnx")
    with pytest.raises(Refused, match=r"the node product_Q4 \(MatMulNBits\)"):
        build_plan(tmp_path / "blocks.onnx", {"x": Profile((1, 64), (1, 64), (1, 64))}, SETTINGS)
    onnx.save(one_product(), tmp_path / "product.onnx")
    assert build_plan(tmp_path / "product.onnx", {"x": Profile((1, 64), (1, 64), (1, 64))}, SETTINGS).plan


def one_product() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((64, 32), np.float32), "w")
    return model([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], [weight], 64, 32)


def model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], width: int, made: int) -> onnx.ModelProto:
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])]
        for name, size in (("x", width), ("y", made))
    )
    graph = helper.make_graph(nodes, "graph", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    "wrong",
    [Profile((8, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 32)), Profile((1, 3, 16, 16), (8, 3, 16, 16), (8, 3, 16, 16))],
)
def test_the_builder_refuses_a_profile_that_is_impossible(graphs: Path, wrong: Profile) -> None:
    with pytest.raises(Refused, match="profile"):
        build_plan(graphs / "image.onnx", {"pixel_values": wrong}, SETTINGS)


def overflowing(scale: float) -> onnx.ModelProto:
    """Returns `scale x / |scale x|`."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("ReduceL2", ["scaled", "axis"], ["norm"], keepdims=1),
        helper.make_node("Div", ["scaled", "norm"], ["y"]),
    ]
    weights = {"scale": np.array(scale, np.float32), "axis": np.array([1])}
    return model(nodes, [numpy_helper.from_array(value, name) for name, value in weights.items()], 4, 4)


def test_the_rounded_graph_shows_an_overflow_that_the_cast_one_hides_on_a_processor() -> None:
    x = np.full((1, 4), 1.0, np.float32)
    graph = overflowing(50_000)  # the norm is 100,000; float16 ends at 65,504
    (exact,) = literal_session(graph).run(None, {"x": x})
    np.testing.assert_allclose(exact, np.full((1, 4), 0.5))
    (rounded,) = literal_session(cast(graph, "fp16", (), rounded=True)).run(None, {"x": x})
    assert not np.abs(rounded - 0.5).max() < 0.1
    (hidden,) = literal_session(cast(graph, "fp16", ())).run(None, {"x": x})
    np.testing.assert_allclose(hidden, np.full((1, 4), 0.5), atol=1e-3)
    for safe in (cast(graph, "fp16", ("normalisation",), rounded=True), cast(graph, "bf16", (), rounded=True)):
        np.testing.assert_allclose(literal_session(safe).run(None, {"x": x})[0], np.full((1, 4), 0.5), atol=1e-2)


@pytest.mark.parametrize(("precision", "step"), [("fp16", 2**-10), ("bf16", 2**-7)])
def test_numbers_are_rounded_as_the_type_rounds(precision: str, step: float) -> None:
    graph = model(
        [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("Add", ["twice", "x"], ["y"])], [], 4, 4
    )
    x = np.array([[1 + step, 1 + step / 4, 1 + step * 3 / 4, 3]], np.float32)
    (found,) = literal_session(cast(graph, precision, (), rounded=True)).run(None, {"x": x})
    np.testing.assert_array_equal(found, [[3 + 4 * step, 3, 3 + 4 * step, 9]])  # 3 + 3 steps is half-way to even


WRAPPED = """

class Wrapped:
    def __init__(self, session):
        self.run = session.run

class Runtime(Runtime):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.text_session = Wrapped(self.text_session)

"""


def test_a_graph_whose_session_is_hidden_is_refused_rather_than_compared_with_itself(
    graphs: Path, tmp_path: Path
) -> None:
    hidden = shutil.copytree(graphs, tmp_path / "hidden")
    with (hidden / "runtime.py").open("a", encoding="utf-8") as file:
        file.write(WRAPPED)
    with pytest.raises(Refused, match=r"no session in .*runtime\.py computes text\.onnx"):
        export_tensorrt(hidden, tmp_path / "tensorrt", SETTINGS, items())


def test_int8_needs_items_that_reach_every_graph(graphs: Path, tmp_path: Path) -> None:
    texts = [item for item in items() if item.image is None]
    with pytest.raises(Refused, match=r"no item shows the ranges of image\.onnx"):
        export_tensorrt(graphs, tmp_path / "tensorrt", changed(precision="int8"), texts)


def test_masks_stay_finite_and_guards_above_zero() -> None:
    half = np.dtype(np.float16)
    assert in_range(np.array([-3.4e38, 1e-12], np.float32), half).tolist() == [-65504, 0]
    assert in_range(np.array(1e-12, np.float32), half) > 0


def test_what_overflows_is_left_in_float32_and_no_more(graphs: Path, tmp_path: Path) -> None:
    loud = shutil.copytree(graphs, tmp_path / "loud")
    graph = onnx.load(loud / "text.onnx")
    for weight in (each for each in graph.graph.initializer if len(each.dims) == 2):  # words, and their projection
        value = numpy_helper.to_array(weight)
        weight.CopyFrom(numpy_helper.from_array(10_000 * value / np.abs(value).max(), weight.name))
    onnx.save(graph, loud / "text.onnx")
    engines = export_tensorrt(loud, tmp_path / "tensorrt", SETTINGS, items())
    first, *_, last = report_of(tmp_path / "tensorrt")["parity"]
    assert not first["parity"]["minimum"] > 0.999 and last["parity"]["minimum"] > 0.999
    assert all(list(engine.kept) == last["kept"] != [] for engine in engines)


def test_vectors_that_differ_too_much_are_refused_and_nothing_is_written(graphs: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="TensorRT bf16 graphs answer otherwise"):
        export_tensorrt(graphs, tmp_path / "tensorrt", changed(precision="bf16", parity_cosine=1.0), items())
    assert not list(tmp_path.iterdir())


@without_gpu
def test_nothing_runs_without_a_gpu_and_no_number_is_made_up(built: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot run here: .*NVIDIA driver"):
        EngineSession(built / TEXT)
    report = report_of(built)
    assert report["executed"] is None and "NVIDIA driver" in report["not_executed"]
    assert all("ONNX Runtime on the processor" in step["measured_on"] for step in report["parity"])


@without_gpu
def test_a_builder_that_is_not_there_says_why() -> None:
    found = {name: BUILDERS.module(name).missing() for name in BUILDERS.names()}
    assert found["rtx"] is None and found["tensorrt"]
    with pytest.raises(UsageError, match=f"tensorrt cannot build here: {found['tensorrt'][:30]}"):
        builder_of("tensorrt")


def test_engines_are_named_after_what_they_are_built_for(graphs: Path, tmp_path: Path) -> None:
    shutil.copy(graphs / "image.onnx", tmp_path / "image.fp32.onnx")
    for_two = changed(targets=["sm89", "sm120"], precision="fp32")
    engine, seconds = build_engine(graphs / "image.onnx", tmp_path / "image.fp32.onnx", for_two)
    assert engine.file == "image.rtx-1.7.1.sm89-sm120.fp32.engine" and seconds > 0
    assert read_engine(tmp_path / engine.file, graphs / "image.onnx", for_two) == engine
    with pytest.raises(UsageError, match="builds nothing for sm90"):
        build_engine(graphs / "image.onnx", tmp_path / "image.fp32.onnx", changed(targets=["sm90"]))


def test_triton_reads_the_configuration(built: Path) -> None:
    messages = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="tritonclient lacks its gRPC part")
    text_format = importlib.import_module("google.protobuf.text_format")

    text = text_format.Parse((built / "text" / "config.pbtxt").read_text(encoding="utf-8"), messages.ModelConfig())
    assert (text.name, text.platform, text.max_batch_size) == ("text", "tensorrt_plan", 32)
    assert [(each.name, list(each.dims)) for each in text.input] == [("input_ids", [-1]), ("attention_mask", [-1])]
    assert [(each.name, list(each.dims)) for each in text.output] == [("sentence_embedding", [24])]
    assert (built / "text" / "1" / text.default_model_filename).is_file()
    image = text_format.Parse((built / "image" / "config.pbtxt").read_text(encoding="utf-8"), messages.ModelConfig())
    assert list(image.input[0].dims) == [3, 32, 32] and image.input[0].data_type == messages.TYPE_FP32
    with pytest.raises(text_format.ParseError):
        text_format.Parse('name: "text" dims: [ 1 ]', messages.ModelConfig())


def test_the_stage_writes_engines_where_the_parameters_ask_for_them(data: Path, student: Path, tmp_path: Path) -> None:
    asked = EXPORT.model_copy(update={"variants": [FP32], "tensorrt": SETTINGS})
    export(asked, student, data, tmp_path / "onnx")
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["fp32", "parity.json", "tensorrt"]
    engine = tmp_path / "onnx" / "tensorrt" / TEXT
    assert read_engine(engine, tmp_path / "onnx" / "fp32" / "text.onnx", SETTINGS).bytes == engine.stat().st_size
    assert "components.export.tensorrt.builders.rtx" in asked.modules()
    assert "components.export.tensorrt.builders.rtx" not in EXPORT.modules()

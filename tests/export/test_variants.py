"""Every variant answers as the student does, weighs what its name says, and is refused when it is made wrong."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx as onnx_format
import onnxruntime
import openvino
import pytest
import torch
from onnx import numpy_helper
from transformers import BertConfig, BertModel

from components.corpus import Item
from components.embedder import OnnxEmbedder, TorchEmbedder, runtime
from components.embedder.dual_encoder import assemble, save
from components.embedder.runtime import OpenVinoSession, Runtime, session
from components.errors import EmbedlineError, Refused, UsageError
from components.export import onnx_graphs, openvino_graphs, quantisation
from components.export.bundle import triton_config
from components.export.capacity import Capacity
from components.export.config import Export
from components.export.export import export
from components.export.exporters import calibration_of
from components.export.parity import demand, parity
from components.export.sample import training_items
from tests.export.conftest import MAX_TOKENS, SERVING, WORDS, make_encoder

pytestmark = pytest.mark.slow  # every variant of a student is exported and quantised

LEAST = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.97, "int8_weights": 0.999, "int4": 0.95, "openvino_fp32": 0.9999}
CALIBRATED = {"int8": {"calibration_images": 64}}
WIDTH = 64


def settings(*names: str) -> Export:
    variants = [{"name": name, "parity_cosine": LEAST.get(name, 0.99), **CALIBRATED.get(name, {})} for name in names]
    return Export.model_validate({"opset": 20, "parity_items": 12, "variants": variants})


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student whose text tower is a transformer, so that its text graph has matrix products."""
    convolutions = make_encoder(seed=1)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=MAX_TOKENS,
    )
    texts = BertModel(config)
    with torch.no_grad():
        for weight in texts.encoder.parameters():
            if weight.ndim == 2:
                weight.mul_(5)  # large enough for a wrong export to show
    folder = tmp_path_factory.mktemp("transformer") / "student"
    images: Any = convolutions.model.vision_model
    save(assemble(texts, images, convolutions.tokenizer, convolutions.description), folder)
    return folder


@pytest.fixture(scope="module")
def exported(transformer: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("variants") / "onnx"
    export(settings(*LEAST), transformer, data, output)
    return output


def weights(path: Path) -> list[onnx_format.TensorProto]:
    return list(onnx_format.load(path).graph.initializer)


@pytest.mark.parametrize("variant", sorted(LEAST))
def test_it_answers_as_the_student_does(transformer: Path, exported: Path, data: Path, variant: str) -> None:
    found = parity(TorchEmbedder(transformer), OnnxEmbedder(exported / variant), training_items(data)[:30])
    demand(found, variant, LEAST[variant])
    if variant not in ("fp32", "openvino_fp32"):
        assert found.minimum < 1 - 1e-9, "nothing was rounded"


def test_each_weighs_what_its_name_says(exported: Path) -> None:
    size = {name: (exported / name / "text.onnx").stat().st_size for name in LEAST if name != "openvino_fp32"}
    assert size["fp16"] < 0.6 * size["fp32"]
    assert size["int8"] < 0.45 * size["fp32"]
    assert size["int4"] < size["int8_weights"] < 0.45 * size["fp32"]


@pytest.mark.parametrize(("variant", "bits"), [("int4", 4), ("int8_weights", 8)])
def test_products_have_weights_of_so_many_bits(exported: Path, variant: str, bits: int) -> None:
    graph = onnx_format.load(exported / variant / "text.onnx").graph
    products = [
        {attribute.name: attribute.i for attribute in node.attribute}
        for node in graph.node
        if node.op_type == "MatMulNBits"
    ]
    assert len(products) == 12  # six of each layer
    assert {(product["bits"], product["accuracy_level"]) for product in products} == {(bits, 1)}


def test_products_of_int8_are_of_integers(exported: Path) -> None:
    """And the rows of queries, keys and values are rounded once."""
    kinds = Counter(node.op_type for node in onnx_format.load(exported / "int8" / "text.onnx").graph.node)
    assert (kinds["MatMulInteger"], kinds["QuantizeLinear"]) == (12, 8)  # six and four of each layer


def test_fp16_keeps_inputs_and_outputs_and_sums_in_fp32(exported: Path) -> None:
    graph = onnx_format.load(exported / "fp16" / "text.onnx").graph
    assert graph.output[0].type.tensor_type.elem_type == onnx_format.TensorProto.FLOAT
    tables = {weight.data_type for weight in graph.initializer if len(weight.dims) == 2}
    assert onnx_format.TensorProto.FLOAT16 in tables and onnx_format.TensorProto.FLOAT not in tables


def zero_a_weight(path: Path) -> None:
    model = onnx_format.load(path)
    largest = max(model.graph.initializer, key=lambda weight: int(np.prod(weight.dims)))
    largest.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(largest)), largest.name))
    onnx_format.save(model, path)


@pytest.mark.parametrize("variant", sorted(set(LEAST) - {"openvino_fp32"}))
def test_one_with_a_weight_of_zeros_is_refused(
    transformer: Path, exported: Path, data: Path, tmp_path: Path, variant: str
) -> None:
    shutil.copytree(exported / variant, tmp_path / variant)
    zero_a_weight(tmp_path / variant / "text.onnx")
    found = parity(TorchEmbedder(transformer), OnnxEmbedder(tmp_path / variant), training_items(data)[:30])
    with pytest.raises(Refused, match=f"the {variant} graphs answer otherwise than the model"):
        demand(found, variant, LEAST[variant])


def test_an_openvino_graph_with_a_weight_of_zeros_is_refused(
    transformer: Path, exported: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported / "openvino_fp32", tmp_path / "openvino_fp32")
    places = re.findall(r'offset="(\d+)" size="(\d+)"', (tmp_path / "openvino_fp32" / "text.xml").read_text())
    size, offset = max((int(size), int(offset)) for offset, size in places)
    with (tmp_path / "openvino_fp32" / "text.bin").open("r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    found = parity(TorchEmbedder(transformer), OnnxEmbedder(tmp_path / "openvino_fp32"), training_items(data)[:30])
    with pytest.raises(Refused, match="the openvino_fp32 graphs answer otherwise than the model"):
        demand(found, "openvino_fp32", LEAST["openvino_fp32"])


def test_the_report_names_what_computed(exported: Path) -> None:
    report = json.loads((exported / "parity.json").read_text())
    assert {name: row["provider"] for name, row in report.items()} == {
        **dict.fromkeys(LEAST, "cpu"),
        "openvino_fp32": "openvino",
    }


def test_openvino_graphs_name_no_place_of_the_machine_and_keep_their_weights_in_fp32(exported: Path) -> None:
    for path in (exported / "openvino_fp32").glob("*.xml"):
        assert str(Path.cwd()) not in path.read_text() and "/tmp" not in path.read_text()
    assert not list((exported / "openvino_fp32").glob("*.onnx*"))
    size = (exported / "openvino_fp32" / "text.bin").stat().st_size
    assert size > 0.9 * sum(len(weight.raw_data) for weight in weights(exported / "fp32" / "text.onnx"))


def test_answers_of_openvino_stay_when_it_is_asked_again(exported: Path) -> None:
    embedder = OnnxEmbedder(exported / "openvino_fp32", threads=1)
    (first,) = embedder.runtime.text_session.run(
        ["sentence_embedding"], {"input_ids": np.array([[5, 6]]), "attention_mask": np.array([[1, 1]])}
    )
    before = first.copy()
    embedder.encode([Item("word9 word8", None)])
    np.testing.assert_array_equal(first, before)


class Core:
    """OpenVINO of a processor that has, or has not, bfloat16."""

    capabilities: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.real = openvino.Core()

    def get_property(self, device: str, name: str) -> list[str]:
        return list(self.capabilities)

    def compile_model(self, model: Any, device: str, asked: dict[str, Any]) -> Any:
        assert asked["INFERENCE_PRECISION_HINT"] == "bf16"
        return self.real.compile_model(model, device, asked | {"INFERENCE_PRECISION_HINT": "f32"})

    def read_model(self, path: Path) -> Any:
        return self.real.read_model(path)


def openvino_with(monkeypatch: pytest.MonkeyPatch, *capabilities: str) -> None:
    fake: Any = ModuleType("openvino")
    fake.__dict__.update(vars(openvino) | {"Core": type("Core", (Core,), {"capabilities": capabilities})})
    monkeypatch.setitem(sys.modules, "openvino", fake)


def test_bf16_is_left_out_where_the_processor_would_emulate_it(
    student: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    openvino_with(monkeypatch, "FP32", "INT8")
    found = export(settings("fp32", "openvino_bf16"), student, data, tmp_path / "onnx")
    assert list(found) == ["fp32"] and not (tmp_path / "onnx" / "openvino_bf16").exists()
    assert "openvino_bf16 is not exported: this processor has no bfloat16, only FP32, INT8" in capsys.readouterr().out
    with pytest.raises(Refused, match="none of openvino_bf16 can be computed here"):
        export(settings("openvino_bf16"), student, data, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_bf16_is_exported_where_the_processor_has_it_and_refused_where_it_is_moved_to_another(
    student: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as here:
        openvino_with(here, "FP32", "BF16")
        export(settings("openvino_bf16"), student, data, tmp_path / "onnx")
    openvino_with(monkeypatch, "FP32", "INT8")
    with pytest.raises(EmbedlineError, match=r"to be computed in bf16, and this processor has FP32, INT8 only"):
        OnnxEmbedder(tmp_path / "onnx" / "openvino_bf16")


def test_without_openvino_it_is_said_what_to_install(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EmbedlineError, match="needs OpenVINO, which is not installed: pip install openvino"):
        OnnxEmbedder(exported / "openvino_fp32")
    with pytest.raises(UsageError, match="OpenVINO is not installed") as caught:
        openvino_graphs.convert(exported / "fp32", tmp_path / "openvino", "f32")
    assert "embedline[openvino]" in caught.value.remedy
    OnnxEmbedder(exported / "fp32")


def test_a_class_whose_runtime_opens_onnx_alone_is_refused_by_openvino(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported / "fp32", tmp_path / "graphs")
    (tmp_path / "graphs" / "runtime.py").write_text("import onnxruntime\n")
    with pytest.raises(Refused, match="opens no graphs of OpenVINO"):
        openvino_graphs.convert(tmp_path / "graphs", tmp_path / "openvino", "f32")


def test_a_graph_above_the_limit_has_its_weights_beside_it_in_every_variant(
    transformer: Path, exported: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graphs, "LARGEST_FILE", 50_000)
    names = ("fp32", "fp16", "int8", "int4", "openvino_fp32")
    export(settings(*names), transformer, data, tmp_path / "onnx")
    assert (tmp_path / "onnx" / "fp32" / "text.onnx").stat().st_size < 50_000
    assert (tmp_path / "onnx" / "fp32" / "text.onnx.data").stat().st_size > 200_000
    items = training_items(data)[:20]
    for name in names:
        expected = OnnxEmbedder(exported / name, threads=1).encode(items)
        found = OnnxEmbedder(tmp_path / "onnx" / name, threads=1).encode(items)
        np.testing.assert_allclose(found, expected, atol=0.02 if name == "int8" else 1e-5)
    assert not list((exported / "fp32").glob("*.data"))
    assert not list((tmp_path / "onnx" / "openvino_fp32").glob("*.data"))


def test_a_graph_that_has_shrunk_leaves_no_weights_beside_it(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = onnx_format.load(exported / "fp32" / "text.onnx"), tmp_path / "text.onnx"
    with monkeypatch.context() as small:
        small.setattr(onnx_graphs, "LARGEST_FILE", 1000)
        onnx_graphs.save(model, path)
        first = path.with_name("text.onnx.data").stat().st_size
        onnx_graphs.save(onnx_format.load(path), path)
        assert path.with_name("text.onnx.data").stat().st_size == first
    onnx_graphs.save(onnx_format.load(path), path)
    assert [file.name for file in tmp_path.iterdir()] == ["text.onnx"]


def test_calibration_is_what_the_class_feeds_its_graphs(exported: Path, data: Path) -> None:
    items = training_items(data)
    fed = {name: list(batches) for name, batches in calibration_of(exported / "fp32", items, 40).items()}
    assert list(fed) == ["image.onnx"]
    assert [batch["pixel_values"].shape for batch in fed["image.onnx"]] == [(32, 3, 32, 32), (8, 3, 32, 32)]
    assert not calibration_of(data, items, 40)


def test_convolutions_without_calibration_stay_fp32(exported: Path, tmp_path: Path) -> None:
    quantisation.quantise(exported / "fp32", tmp_path / "int8", {})
    assert "DequantizeLinear" not in {
        node.op_type for node in onnx_format.load(tmp_path / "int8" / "image.onnx").graph.node
    }


def test_the_runtime_says_what_computes_and_a_provider_that_is_not_there_is_an_error(exported: Path) -> None:
    folder = exported / "fp32"
    assert Runtime(folder).provider == Runtime(folder, provider="cpu").provider == "cpu"
    with pytest.raises(RuntimeError, match="ONNX Runtime has no provider cuda here; it has cpu"):
        Runtime(folder, provider="cuda")
    with pytest.raises(EmbedlineError, match="no provider tensorrt") as caught:
        OnnxEmbedder(folder, provider="tensorrt")
    assert "serving.provider" in caught.value.remedy
    with pytest.raises(RuntimeError, match="computes on the processor, not on cuda"):
        session(exported / "openvino_fp32" / "text.xml", provider="cuda")


class Taken:
    """A session of ONNX Runtime with a GPU build, on a machine where only these providers work."""

    works: tuple[str, ...] = ()

    def __init__(self, path: str, options: Any, providers: list[str]) -> None:
        self.asked = providers

    def get_providers(self) -> list[str]:
        return [name for name in [*self.asked, "CPUExecutionProvider"] if name in self.works]


@pytest.mark.parametrize(
    ("works", "taken"),
    [
        (("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"), "tensorrt"),
        (("CUDAExecutionProvider", "CPUExecutionProvider"), "cuda"),
        (("CPUExecutionProvider",), "cpu"),
    ],
)
def test_auto_takes_the_fastest_that_works_and_a_named_one_never_falls_back(
    monkeypatch: pytest.MonkeyPatch, works: tuple[str, ...], taken: str
) -> None:
    everything = [
        "TensorrtExecutionProvider",
        "CUDAExecutionProvider",
        "AzureExecutionProvider",
        "CPUExecutionProvider",
    ]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: everything)
    monkeypatch.setattr(onnxruntime, "InferenceSession", type("Session", (Taken,), {"works": works}))
    path = Path("text.onnx")
    assert runtime.provider_of(session(path)) == taken
    for name, provider in runtime.PROVIDERS.items():
        if provider in works:
            assert runtime.provider_of(session(path, provider=name)) == name
        else:
            with pytest.raises(RuntimeError, match=f"has fallen back from the provider {name} to"):
                session(path, provider=name)


@pytest.mark.parametrize(("provider", "kind"), [("auto", "CPU"), ("cpu", "CPU"), ("cuda", "GPU"), ("tensorrt", "GPU")])
def test_the_server_is_configured_for_the_provider(provider: Any, kind: str) -> None:
    config = triton_config(SERVING.model_copy(update={"provider": provider}), Capacity(1, 1))
    assert f"kind: KIND_{kind} " in config
    assert f'key: "provider" value {{ string_value: "{provider}" }}' in config


def test_an_openvino_graph_runs_in_the_precision_that_it_names(exported: Path) -> None:
    found = OpenVinoSession(exported / "openvino_fp32" / "text.xml", threads=1)
    assert str(found.compiled.get_property("INFERENCE_PRECISION_HINT")).rpartition("'")[0].endswith("float32")


def test_an_item_of_both_parts_is_computed_by_openvino_as_by_onnx_runtime(exported: Path, data: Path) -> None:
    some = [replace(item, instruction="word3 word4") for item in training_items(data)[:12]]
    ours, theirs = (OnnxEmbedder(exported / name, threads=1).encode(some) for name in ("openvino_fp32", "fp32"))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)

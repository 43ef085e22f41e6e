"""The exported graphs answer as the model does, alone and in any company; what does not is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx as onnx_format
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from PIL import Image
from pydantic import ValidationError

from components.corpus import Item
from components.embedder import OnnxEmbedder, TorchEmbedder, Vectors
from components.embedder.dual_encoder import save
from components.embedder.runtime import Runtime
from components.errors import Refused
from components.export import variants
from components.export.config import Export
from components.export.export import export
from components.export.parity import MOST_BATCH_DIFFERENCE, Parity, demand, parity, rank_agreement
from components.export.sample import of_each_modality, training_items
from tests.export.conftest import EXPORT, FP32, INT8, MAX_TOKENS, WORDS, make_encoder

VARIANTS = ("fp32", "int8")


def items(count: int = 24) -> list[Item]:
    """Texts of 1 to more than `MAX_TOKENS` words, images of unequal sizes, both together, with instructions."""
    noise = np.random.default_rng(7)
    found = []
    for number in range(count):
        text = " ".join(noise.choice(WORDS[2:], 1 + number % (MAX_TOKENS + 4)))
        image = Image.fromarray(noise.integers(0, 256, (5, 5, 3), np.uint8)).resize((8 + 7 * number, 60 - number))
        instruction = "word3 word4" if number % 2 else None
        found.append((Item(text, None), Item(None, image), Item(text, image))[number % 3])
        found[-1] = replace(found[-1], instruction=instruction)
    return found


@pytest.mark.parametrize(("variant", "least"), [("fp32", 0.999999), ("int8", 0.99)])
def test_the_graphs_answer_as_torch_does(student: Path, onnx: Path, variant: str, least: float) -> None:
    found = parity(TorchEmbedder(student), OnnxEmbedder(onnx / variant), items())
    assert found.minimum >= least


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_neighbour_in_a_batch_changes_a_vector(onnx: Path, variant: str) -> None:
    embedder, some = OnnxEmbedder(onnx / variant), items()
    alone = np.concatenate([embedder.encode([item]) for item in some])
    np.testing.assert_allclose(embedder.encode(some), alone, atol=1e-5)
    np.testing.assert_allclose(embedder.encode(some[::-1])[::-1], alone, atol=1e-5)


@dataclass
class Counted:
    """A session of ONNX Runtime, and how many images went through it."""

    session: Any
    images: int = 0

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> Any:
        self.images += len(inputs["pixel_values"])
        return self.session.run(outputs, inputs)


def test_parity_computes_every_image_in_the_batch_and_again_alone(student: Path, onnx: Path, data: Path) -> None:
    exported, some = OnnxEmbedder(onnx / "int8"), training_items(data)
    files = {item.image for item in some if item.image is not None}
    one_each = of_each_modality([item for item in some if item.text is None], len(some))
    assert {item.image for item in one_each} <= files and len(one_each) == len({item.image for item in one_each}) > 10
    exported.runtime.image_session = counted = Counted(exported.runtime.image_session)
    parity(TorchEmbedder(student), exported, one_each)
    assert counted.images == 2 * len(one_each)
    remembering = OnnxEmbedder(onnx / "int8", remember_images=True)
    remembering.runtime.image_session = counted = Counted(remembering.runtime.image_session)
    parity(TorchEmbedder(student), remembering, one_each)
    assert counted.images == len(one_each), "what remembers proves nothing about items alone"


def looking_around(model: Path, to: Path, share: float) -> Path:
    """Returns a copy of an exported model that adds `share` of the batch's mean to every image's vector."""
    shutil.copytree(model, to)
    graph = onnx_format.load(to / "image.onnx")
    (last,) = (node for node in graph.graph.node if "image_embedding" in node.output)
    last.output[list(last.output).index("image_embedding")] = "alone"
    constants = {"batch_axis": np.array([0], np.int64), "share_of_mean": np.array(share, np.float32)}
    graph.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["alone", "batch_axis"], ["mean_of_batch"], keepdims=1),
            helper.make_node("Mul", ["mean_of_batch", "share_of_mean"], ["neighbours"]),
            helper.make_node("Add", ["alone", "neighbours"], ["image_embedding"]),
        ]
    )
    onnx_format.save(graph, to / "image.onnx")
    return to


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_export_that_looks_at_the_neighbours_in_a_batch_is_refused(
    student: Path, onnx: Path, data: Path, tmp_path: Path, variant: str
) -> None:
    reference, files = TorchEmbedder(student), of_each_modality(training_items(data), EXPORT.parity_items)
    sound = parity(reference, OnnxEmbedder(onnx / variant), files)
    assert sound.batch_difference < MOST_BATCH_DIFFERENCE / 100
    demand(sound, variant, 0.97)
    found = parity(reference, OnnxEmbedder(looking_around(onnx / variant, tmp_path / variant, 0.05)), files)
    assert found.minimum > 0.97, "the cosines alone let it pass"
    with pytest.raises(Refused, match=f"the {variant} graphs answer otherwise in a batch than alone"):
        demand(found, variant, 0.97)


@pytest.mark.parametrize("difference", [float("nan"), 2 * MOST_BATCH_DIFFERENCE])
def test_a_batch_difference_that_is_large_or_no_number_is_refused(difference: float) -> None:
    found = Parity(1, 1.0, 1.0, 1.0, 1.0, 1.0, worst={}, batch_difference=0.0)
    demand(found, "fp32", 1.0)
    with pytest.raises(Refused, match="in a batch than alone"):
        demand(replace(found, batch_difference=difference), "fp32", 1.0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [1, 2, 3, 17, 33])
def test_any_batch_and_any_length_goes_through_the_graphs(onnx: Path, variant: str, size: int) -> None:
    runtime = Runtime(onnx / variant, threads=1)
    for length in (1, 2, 5, MAX_TOKENS):
        ids = np.full((size, length), 3, np.int64)
        (vectors,) = runtime.text_session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.ones(size), rtol=1e-5)
    pixels = np.random.default_rng(0).normal(size=(size, 3, 32, 32)).astype(np.float32)
    (vectors,) = runtime.image_session.run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), np.ones(size), rtol=1e-5)


def test_what_is_masked_does_not_count(onnx: Path) -> None:
    session = Runtime(onnx / "fp32", threads=1).text_session
    ids, mask = np.array([[5, 6, 7, 8]]), np.array([[1, 1, 0, 0]])
    (short,) = session.run(None, {"input_ids": ids[:, :2], "attention_mask": mask[:, :2]})
    (masked,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    (unmasked,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    np.testing.assert_allclose(masked, short, atol=1e-6)
    assert np.abs(unmasked - short).max() > 0.01


def test_int8_weighs_less_and_its_convolutions_are_quantised(onnx: Path) -> None:
    sizes = {variant: (onnx / variant / "text.onnx").stat().st_size for variant in VARIANTS}
    assert sizes["int8"] < sizes["fp32"] / 1.5
    graph = onnx_format.load(onnx / "int8" / "image.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    assert {made_by[node.input[1]] for node in graph.node if node.op_type == "Conv"} == {"DequantizeLinear"}


def test_no_graph_names_a_place_on_the_machine(onnx: Path) -> None:
    for graph in onnx.rglob("*.onnx"):
        assert str(Path.cwd()).encode() not in graph.read_bytes()


def test_the_weights_of_another_model_are_found_out(student: Path, data: Path, onnx: Path, tmp_path: Path) -> None:
    save(make_encoder(seed=2), tmp_path / "other")
    found = parity(TorchEmbedder(tmp_path / "other"), OnnxEmbedder(onnx / "fp32"), items())
    assert found.minimum < 0.9
    with pytest.raises(Refused, match="fp32 graphs answer otherwise"):
        demand(found, "fp32", FP32.parity_cosine)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_mean": [0.4, 0.5, 0.6]},
        {"image_std": [0.6, 0.5, 0.4]},
        {"instruction_weight": 0.0},
        {"max_tokens": 6},
    ],
)
def test_another_preprocessing_is_found_out(
    student: Path, onnx: Path, tmp_path: Path, wrong: dict[str, object]
) -> None:
    copy = tmp_path / "fp32"
    copy.mkdir()
    for file in (onnx / "fp32").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    description = json.loads((copy / "embedder.json").read_text())
    (copy / "embedder.json").write_text(json.dumps(description | wrong))
    found = parity(TorchEmbedder(student), OnnxEmbedder(copy), items())
    assert found.minimum < FP32.parity_cosine


def another_tokenizer(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    shifted = dict(zip(vocabulary, [*list(vocabulary.values())[1:], 0], strict=True))
    tokenizer["model"]["vocab"] = shifted
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def change_runtime(copy: Path, found: str, other: str) -> None:
    source = (copy / "runtime.py").read_text(encoding="utf-8")
    assert found in source
    (copy / "runtime.py").write_text(source.replace(found, other), encoding="utf-8")


def not_normalised(copy: Path) -> None:
    change_runtime(copy, "return normalise(total)", "return total")


def mask_of_padding_left_out(copy: Path) -> None:
    change_runtime(copy, "[encoding.attention_mask for", "[[1] * len(encoding.ids) for")


def not_standardised(copy: Path) -> None:
    change_runtime(copy, "/ 255 - mean) / std", "/ 255 + 0 * mean)")


@pytest.mark.parametrize(
    "spoil", [another_tokenizer, not_normalised, mask_of_padding_left_out, not_standardised], ids=lambda f: f.__name__
)
def test_an_export_with_one_thing_wrong_is_refused(
    student: Path, onnx: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    copy = tmp_path / "fp32"
    shutil.copytree(onnx / "fp32", copy)
    demand(parity(TorchEmbedder(student), OnnxEmbedder(copy), items()), "fp32", FP32.parity_cosine)
    spoil(copy)
    with pytest.raises(Refused, match="fp32 graphs answer otherwise"):
        demand(parity(TorchEmbedder(student), OnnxEmbedder(copy), items()), "fp32", FP32.parity_cosine)


def test_rank_agreement_is_the_part_of_the_nearest_that_is_the_same() -> None:
    angles = np.array([0, 10, 25, 45, 70])
    expected = on_circle(angles)
    assert rank_agreement(expected, expected, 1) == rank_agreement(expected, on_circle(-angles + 5), 3) == 1.0
    moved = on_circle(np.array([0, 10, 25, 45, 26]))  # the last one comes beside the third, which had the second
    assert rank_agreement(expected, moved, 1) == pytest.approx(2 / 5)
    assert rank_agreement(expected, moved, 4) == 1.0, "all others are nearest"
    ties = on_circle(np.array([0, 90, 270]))
    assert rank_agreement(ties, on_circle(np.array([0, 89, 270])), 1) == 1.0, "either of two equally near ones"
    assert rank_agreement(expected[:1], expected[:1], 10) == 1.0


def on_circle(degrees: NDArray[np.int64]) -> Vectors:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_the_stage_writes_its_report(onnx: Path) -> None:
    report = json.loads((onnx / "parity.json").read_text())
    assert set(report) == {"fp32", "int8"}
    assert report["fp32"]["mean"] >= report["fp32"]["percentile_1"] >= report["fp32"]["minimum"] > 0.9999
    assert report["fp32"]["rank_agreement_1"] == report["fp32"]["rank_agreement_10"] == 1.0
    assert report["int8"]["items"] == 36  # 12 of each modality
    assert report["int8"]["worst"].keys() <= {"text", "image", "instruction"}


HALF = """
from typing import Literal

import numpy as np
import onnx
from onnx import numpy_helper

from components.export.variants import fp32
from components.sections import Fraction, Section

class Settings(Section):
    name: Literal["half"]
    parity_cosine: Fraction
    factor: float

def write(settings, source, directory, items):
    fp32.write(settings, source, directory, items)
    model = onnx.load(directory / "image.onnx")
    for weight in model.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            rounded = numpy_helper.to_array(weight).astype(np.float16).astype(np.float32) * np.float32(settings.factor)
            weight.CopyFrom(numpy_helper.from_array(rounded, weight.name))
    onnx.save(model, directory / "image.onnx")
"""


@pytest.mark.slow
def test_a_new_variant_is_one_new_file(
    student: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = {"name": "half", "parity_cosine": 0.9999, "factor": 1.0}

    def exported(settings: dict[str, Any]) -> Export:
        return Export.model_validate({"opset": 20, "parity_items": 12, "variants": [FP32, settings]})

    with pytest.raises(ValidationError, match="should be one of 'fp16', 'fp32', 'int4', 'int8'"):
        exported(half)
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "half.py").write_text(HALF)
    monkeypatch.setattr(variants, "__path__", [*variants.__path__, str(tmp_path / "variants")])
    found = export(exported(half), student, data, tmp_path / "onnx")
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["fp32", "half", "parity.json"]
    assert found["fp32"].minimum > found["half"].minimum > 0.9999
    with pytest.raises(Refused, match="the half graphs answer otherwise than the model"):
        export(exported(half | {"factor": 0.1}), student, data, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_refused_export_leaves_what_was_there(student: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "onnx"
    output.mkdir()
    (output / "finished").touch()
    strict = EXPORT.model_copy(update={"variants": [FP32, INT8.model_copy(update={"parity_cosine": 1.0})]})
    with pytest.raises(Refused, match="int8"):
        export(strict, student, data, output)
    assert [path.name for path in tmp_path.iterdir()] == ["onnx"]
    assert [path.name for path in output.iterdir()] == ["finished"]

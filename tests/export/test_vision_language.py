"""A vision-language model's graph and runtime answer as transformers' processor and model do; what does not is seen.

The reference is `AutoProcessor` and `AutoModel`, with the items padded on the left, and shares no code with the export.
"""

from __future__ import annotations

import ast
import inspect
import io
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer
from transformers import AutoModel, AutoProcessor, vision_utils

from components.backends.sentence_transformer import SentenceTransformerEmbedder, load_model
from components.backends.whole_model import load_whole
from components.corpus import Item
from components.embedder import OnnxEmbedder
from components.embedder import runtime as dual_encoder_runtime
from components.embedder.module_file import module_source
from components.errors import Refused
from components.export import onnx_graphs
from components.export.exporters import exporter_of
from components.export.exporters import vision_language as exporter
from components.export.quantisation import quantise
from components.export.runtimes import vision_language as runtime
from components.export.runtimes.vision_language import Preparation, Prepared, Runtime, UnreadableImage

KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
MOST_DIFFERENCE = 1e-5
FACTOR = 2.0  # of weights that already are ten times the usual: else a wrong grid hardly shows
Vectors = NDArray[np.float32]
Request = tuple[str | None, list[Image.Image], str | None]


@dataclass(frozen=True)
class Exported:
    """A model directory, what was exported of it, and its vectors of `REQUESTS`."""

    model: Path
    target: Path
    expected: Vectors

    def runtime(self) -> Runtime:
        return Runtime(self.target, threads=1)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8))


REQUESTS: list[Request] = [
    ("A short text.", [], None),
    (None, [noise(30, 30)], None),
    ("three images", [noise(120, 16), noise(16, 70), noise(64, 64)], "Find it:"),
    ("a much longer text, " * 12, [], "Find what answers the question:"),
    ("one image", [noise(33, 70)], None),
    (None, [noise(64, 61), noise(8, 8), noise(100, 9)], None),
    ("z", [], None),
]


def write_model(kind: str, folder: Path, pooling: Any = "lasttoken") -> Path:
    """Writes a tiny model as sentence-transformers does, whose images become up to 64 pixels wide."""
    model: Any = load_whole(f"random:{kind}", pooling, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(FACTOR)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model[0].processor.image_processor.size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    model.save(str(folder))
    return folder


def reference(directory: Path, requests: Sequence[Request]) -> Vectors:
    """Returns the vectors of transformers' own model, all items in one batch."""
    processor, model = AutoProcessor.from_pretrained(directory), AutoModel.from_pretrained(directory).float().eval()
    chats, images = [], []
    for text, shown, instruction in requests:
        content = [{"type": "image"}] * len(shown) + ([{"type": "text", "text": text}] if text else [])
        system = [{"role": "system", "content": [{"type": "text", "text": instruction}]}] if instruction else []
        chats.append(processor.apply_chat_template([*system, {"role": "user", "content": content}], tokenize=False))
        images += shown
    inputs = processor(text=chats, images=images or None, padding=True, padding_side="left", return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    if json.loads((directory / "1_Pooling" / "config.json").read_text())["pooling_mode"] == "mean":
        mask = inputs["attention_mask"][..., None]
        pooled = (hidden * mask).sum(1) / mask.sum(1)
    else:
        pooled = hidden[:, -1]
    vectors: Vectors = torch.nn.functional.normalize(pooled, dim=-1).numpy()
    return vectors


def encode(found: Runtime, requests: Sequence[Request]) -> Vectors:
    vectors: Vectors = found.encode(*zip(*requests, strict=True))
    return vectors


def agrees(found: Vectors, expected: Vectors) -> bool:
    return bool(np.abs(found - expected).max() <= MOST_DIFFERENCE)


@pytest.fixture(scope="module", params=[pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    directory = write_model(request.param, folder / "model")
    exporter.export(directory, folder / "onnx", 20)
    return Exported(directory, folder / "onnx", reference(directory, REQUESTS))


@pytest.fixture(scope="module")
def sentence_transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("qwen2_vl", tmp_path_factory.mktemp("qwen2_vl") / "model")


def opened(directory: Path) -> Any:
    return load_model(SentenceTransformer, directory)


def test_answers_as_the_model_does(exported: Exported, record_property: Callable[[str, object], None]) -> None:
    found = encode(exported.runtime(), REQUESTS)
    record_property("largest difference", float(np.abs(found - exported.expected).max()))
    assert agrees(found, exported.expected)
    assert found.dtype == np.float32 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_is_found_and_opened_as_every_exported_model(exported: Exported) -> None:
    """The two embedders that the export compares, given files."""
    assert exporter_of(exported.model) is exporter
    items = [
        Item(text, as_bytes(images[0], "PNG") if images else None, instruction=instruction)
        for text, images, instruction in REQUESTS
    ]
    found = OnnxEmbedder(exported.target, threads=1)
    assert found.dimension == exported.expected.shape[1]
    assert agrees(found.encode(items), SentenceTransformerEmbedder(exported.model).encode(items))


def test_one_graph_takes_any_batch(exported: Exported) -> None:
    found = exported.runtime()
    for requests in (REQUESTS[:1], REQUESTS[1:2], REQUESTS[2:3], REQUESTS[::3], REQUESTS[1:6], REQUESTS * 3):
        expected = np.stack([exported.expected[REQUESTS.index(request)] for request in requests])
        assert agrees(encode(found, requests), expected)


def test_every_item_alone_is_as_in_company(exported: Exported) -> None:
    found = exported.runtime()
    assert agrees(np.concatenate([encode(found, [request]) for request in REQUESTS]), encode(found, REQUESTS))


def test_int8_is_near_and_no_item_depends_on_its_neighbours(exported: Exported, tmp_path: Path) -> None:
    quantise(exported.target, tmp_path / "int8", calibration={})
    found = Runtime(tmp_path / "int8", threads=1)
    together = encode(found, REQUESTS)
    assert agrees(np.concatenate([encode(found, [request]) for request in REQUESTS]), together)
    cosines = (together * exported.expected).sum(1)
    assert 0.9 < cosines.min() < 1 - 1e-6, "near, though these weights are twenty times the usual, and rounded"


def test_a_run_is_no_larger_than_its_bound(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    found, sizes = exported.runtime(), []
    monkeypatch.setattr(runtime, "MOST_SCORES", 30_000)
    batch = found.preparation.batch

    def counted(items: Sequence[Prepared]) -> dict[str, np.ndarray]:
        sizes.append(items)
        return batch(items)

    monkeypatch.setattr(found.preparation, "batch", counted)
    assert agrees(encode(found, REQUESTS), exported.expected)
    assert 1 < len(sizes) < len(REQUESTS)
    assert all(len(items) == 1 or runtime.scores(items) <= 30_000 for items in sizes)


class WrongGrid(Preparation):
    def item(self, *parts: Any) -> Prepared:
        right = super().item(*parts)
        return replace(right, grids=[(columns, rows) for rows, columns in right.grids])


class PaddedLeft(Preparation):
    def texts(self, items: Sequence[Prepared]) -> dict[str, np.ndarray]:
        inputs, longest = super().texts(items), max(len(item.ids) for item in items)
        for row, item in enumerate(items):
            for value in inputs.values():
                value[..., row, :] = np.roll(value[..., row, :], longest - len(item.ids), axis=-1)
        return inputs


class OtherFeatures(Preparation):
    """Takes the features of images from the last to the first."""

    def texts(self, items: Sequence[Prepared]) -> dict[str, np.ndarray]:
        inputs = super().texts(items)
        rows = inputs["feature_rows"]
        return inputs | {"feature_rows": np.where(rows < 0, rows, rows.max() - rows)}


class OneSegment(Preparation):
    """Lets every patch see the patches of all images."""

    def batch(self, items: Sequence[Prepared]) -> dict[str, np.ndarray]:
        inputs = super().batch(items)
        patches = np.arange(len(inputs["image_slots"]))
        return inputs | {"image_patches": patches[None], "image_slots": patches}


class PoolsTheFirst(Preparation):
    def texts(self, items: Sequence[Prepared]) -> dict[str, np.ndarray]:
        inputs = super().texts(items)
        return inputs | {"pooling": np.eye(1, inputs["pooling"].shape[1], dtype=np.float32).repeat(len(items), 0)}


@pytest.mark.parametrize("wrong", [WrongGrid, PaddedLeft, OtherFeatures, OneSegment, PoolsTheFirst])
def test_a_wrong_input_is_seen(exported: Exported, wrong: type[Preparation]) -> None:
    found = exported.runtime()
    found.preparation = wrong(found.description, found.preparation.tokenizer)
    assert not agrees(encode(found, REQUESTS), exported.expected)


def test_swapped_images_are_seen(exported: Exported) -> None:
    text, images, instruction = REQUESTS[2]
    swapped = encode(exported.runtime(), [*REQUESTS[:2], (text, images[::-1], instruction), *REQUESTS[3:]])
    assert not agrees(swapped, exported.expected)


def test_another_tokenizer_is_seen(exported: Exported) -> None:
    found = exported.runtime()
    content = json.loads((exported.target / runtime.TOKENIZER).read_text())
    words = content["model"]["vocab"]
    words["a"], words["e"] = words["e"], words["a"]
    found.preparation = Preparation(found.description, Tokenizer.from_str(json.dumps(content)))
    assert not agrees(encode(found, REQUESTS), exported.expected)


def test_missing_normalisation_is_seen(exported: Exported) -> None:
    model = onnx.load(exported.target / runtime.GRAPH)
    norm = next(node for node in model.graph.node if node.op_type == "ReduceL2")
    model.graph.output[0].name = norm.input[0]
    found = exported.runtime()
    bare = onnxruntime.InferenceSession(model.SerializeToString())
    found.session = type("Bare", (), {"run": lambda _, names, inputs: bare.run(None, inputs)})()
    vectors = encode(found, REQUESTS)
    assert not agrees(vectors, exported.expected)
    assert agrees(normalised(vectors), exported.expected)


def normalised(vectors: Vectors) -> Vectors:
    units: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units


def test_other_windows_and_other_tables_are_seen(exported: Exported) -> None:
    found = exported.runtime()
    for field in ("window", "table_side"):
        size = getattr(found.description, field)
        if size:
            other = Preparation(replace(found.description, **{field: size - 1}), found.preparation.tokenizer)
            found.preparation = other
            assert not agrees(encode(found, REQUESTS), exported.expected)


def test_the_graph_is_one_that_other_runtimes_take(exported: Exported) -> None:
    model = onnx.load(exported.target / runtime.GRAPH)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    assert [output.name for output in model.graph.output] == ["sentence_embedding"]
    of_unknown_size = {"NonZero", "Unique", "Loop", "If", "Scan", "SequenceAt", "Attention"}
    assert not of_unknown_size & {node.op_type for node in model.graph.node}


def test_the_runtime_imports_what_the_server_has() -> None:
    tree = ast.parse(module_source(exporter.PURPOSE, runtime.Runtime))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    of_packages = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    assert of_packages == {"PIL", "numpy", "onnxruntime", "openvino", "tokenizers"}, "openvino for its own graphs alone"


def test_the_runtime_beside_the_graph_is_the_code_that_runs_here(exported: Exported) -> None:
    source = (exported.target / "runtime.py").read_text(encoding="utf-8")
    assert source == module_source(exporter.PURPOSE, runtime.Runtime)
    for part in (runtime.Runtime, dual_encoder_runtime.load_image, dual_encoder_runtime.session):
        assert inspect.getsource(part) in source


def test_bad_items_are_named(exported: Exported) -> None:
    found = exported.runtime()
    with pytest.raises(ValueError, match="item 1 has neither text nor image"):
        found.encode(["a", None], [None, None], [None, None])
    with pytest.raises(UnreadableImage, match="cannot be decoded"):
        found.encode(["a"], [b"no image"], [None])
    assert found.encode([], [], []).shape == (0, found.description.dimension)


@pytest.mark.slow
def test_pools_by_the_mean_where_the_model_does(tmp_path: Path) -> None:
    directory = write_model("qwen2_vl", tmp_path / "model", "mean")
    exporter.export(directory, tmp_path / "onnx", 20)
    assert agrees(encode(Runtime(tmp_path / "onnx", threads=1), REQUESTS), reference(directory, REQUESTS))


@pytest.mark.slow
def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graphs, "LARGEST_FILE", 0)
    directory = write_model("qwen2_vl", tmp_path / "model")
    exporter.export(directory, tmp_path / "onnx", 20)
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size > (tmp_path / "onnx" / "model.onnx").stat().st_size
    assert agrees(encode(Runtime(tmp_path / "onnx", threads=1), REQUESTS), reference(directory, REQUESTS))


# What the runtime makes of an item, against the processor


def preparation_of(model: Any) -> Preparation:
    return Preparation(exporter.describe(model, Path("model")), exporter.tokenizer_of(model[0]))


def as_bytes(image: Image.Image, form: str, **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **settings)
    return stream.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by 90 degrees
    return as_bytes(noise(50, 20), "JPEG", exif=exif)


def layered() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 4), np.uint8))


IMAGES: dict[str, Callable[[], Image.Image | bytes]] = {
    "RGB": partial(noise, 57, 43),
    "RGBA": layered,
    "transparent PNG": lambda: as_bytes(layered(), "PNG"),
    "palette": lambda: noise(40, 40).convert("P"),
    "transparent palette": lambda: as_bytes(noise(40, 40).convert("P"), "GIF", transparency=7),
    "grey": lambda: noise(31, 60).convert("L"),
    "grey with alpha": lambda: layered().convert("LA"),
    "black and white": lambda: noise(31, 60).convert("1"),
    "16 bits of grey": lambda: Image.fromarray(np.arange(0, 60_000, 50).astype(np.uint16).reshape(30, 40)),
    "CMYK": lambda: noise(31, 60).convert("CMYK"),
    "turned by EXIF": turned,
    "very wide": partial(noise, 600, 4),
    "very high": partial(noise, 3, 590),
    "one pixel": partial(noise, 1, 1),
    "large": partial(noise, 900, 1200),
}


@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_those_of_the_processor(name: str, sentence_transformer: Path) -> None:
    """The processor is given what the project's own `load_image` makes of the file."""
    source = IMAGES[name]()
    found = preparation_of(opened(sentence_transformer)).item(None, source, None)
    processor = AutoProcessor.from_pretrained(sentence_transformer).image_processor
    expected = processor(images=[dual_encoder_runtime.load_image(source)], return_tensors="np")
    assert np.array_equal(found.pixels[0], expected["pixel_values"])
    assert found.grids == [tuple(expected["image_grid_thw"][0, 1:])]


@pytest.mark.parametrize("name", ["RGB", "palette", "grey", "transparent PNG"])
def test_pixels_are_those_of_the_file_as_the_processor_opens_it(name: str, sentence_transformer: Path) -> None:
    source = IMAGES[name]()
    image = Image.open(io.BytesIO(source)) if isinstance(source, bytes) else source
    processor = AutoProcessor.from_pretrained(sentence_transformer).image_processor
    found = preparation_of(opened(sentence_transformer)).item(None, source, None)
    assert np.array_equal(found.pixels[0], processor(images=[image], return_tensors="np")["pixel_values"])


def test_what_the_processor_refuses_is_refused(sentence_transformer: Path) -> None:
    narrow = noise(603, 3)
    with pytest.raises(ValueError, match="aspect ratio"):
        AutoProcessor.from_pretrained(sentence_transformer).image_processor(images=[narrow])
    with pytest.raises(UnreadableImage, match="603x3; one side may be at most 200 times the other"):
        preparation_of(opened(sentence_transformer)).item(None, narrow, None)


def tokens(model: Any, request: Request) -> list[int]:
    """Returns the tokens that sentence-transformers gives the model."""
    text, images, instruction = request
    content = ({"image": images} if images else {}) | ({"text": text} if text else {})
    ids: list[int] = model[0].preprocess([content], prompt=instruction)["input_ids"][0].tolist()
    return ids


TEXTS = (
    "<|image_pad|> and <|im_end|>",
    "<|im_start|><|vision_start|><|image_pad|><|vision_end|>",
    "\U000f0000<|im_end|>\U000f0001",
    "  spaces \n",
    "Grüße 世界 👍🏽",
)


@pytest.mark.parametrize("sanitised", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_the_processor(text: str, sanitised: bool, sentence_transformer: Path) -> None:
    model = opened(sentence_transformer)
    model[0].processing_kwargs = {"chat_template": {"sanitize_control_tokens": sanitised}}
    preparation = preparation_of(model)
    requests: list[Request] = [(text, [], None), ("a", [], text), (text, [noise(30, 30), noise(60, 20)], text)]
    for request in requests:
        if sanitised or "<|image_pad|>" not in text:
            assert preparation.item(*request).ids == tokens(model, request)
            continue
        with pytest.raises(ValueError):
            tokens(model, request)
        with pytest.raises(ValueError, match=r"the text holds <\|image_pad\|>, which stands for an image"):
            preparation.item(*request)


REAL_TEMPLATE = (
    "{% set count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for part in message['content'] %}{% if part['type'] == 'image' or 'image' in part %}"
    "{% set count.value = count.value + 1 %}{% if add_vision_id %}Picture {{ count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The form of Qwen2-VL's own template: a system message where there is none, and numbers for images if one asks."""


def test_a_template_of_the_real_form_is_read(sentence_transformer: Path) -> None:
    model = opened(sentence_transformer)
    model[0].processor.chat_template = REAL_TEMPLATE
    model[0].processing_kwargs["chat_template"]["add_generation_prompt"] = True
    preparation = preparation_of(model)
    for request in REQUESTS:
        assert preparation.item(*request).ids == tokens(model, request)
    assert preparation.description.prompt[0].startswith("<|im_start|>system\nYou are a helpful assistant.")


def test_an_item_without_instruction_gets_the_models_own(sentence_transformer: Path) -> None:
    model = opened(sentence_transformer)
    model.prompts, model.default_prompt_name = {"search": "Represent it."}, "search"
    preparation = preparation_of(model)
    assert preparation.item("a", None, None).ids == tokens(model, ("a", [], "Represent it."))
    assert preparation.item("a", None, "b").ids == tokens(model, ("a", [], "b"))


def test_long_texts_are_cut_as_sentence_transformers_cuts_them(sentence_transformer: Path) -> None:
    model = opened(sentence_transformer)
    model[0].max_seq_length = 40
    preparation = preparation_of(model)
    for length in (1, 20, 30, 40, 200):
        requests: list[Request] = [
            ("x" * length, [], None),
            ("y" * length, [], "find"),
            ("z" * length, [noise(16, 16)], None),
        ]
        for request in requests:
            found = preparation.item(*request).ids
            assert len(found) <= 40 and found == tokens(model, request)
    with pytest.raises(ValueError, match=r"the item's images and texts make \d+ tokens; at most 40 are read"):
        preparation.item("a", [noise(64, 64)] * 3, None)


def test_positions_of_tokens_are_those_of_the_model(sentence_transformer: Path) -> None:
    model = opened(sentence_transformer)
    preparation = preparation_of(model)
    for request in REQUESTS:
        item = preparation.item(*request)
        ids = torch.tensor([item.ids])
        grids = torch.tensor([(1, *grid) for grid in item.grids])
        expected, _ = model[0].model.get_rope_index(ids, (ids == preparation.image_id).int(), grids)
        assert np.array_equal(preparation.batch([item])["position_ids"], expected)


GRIDS = ((4, 6), (2, 10), (8, 8), (2, 2), (12, 4))
THW = torch.tensor([(1, *grid) for grid in GRIDS])


def test_positions_of_patches_are_those_of_the_model() -> None:
    found = np.concatenate([runtime.patch_positions(grid, 2).reshape(-1, 2) for grid in GRIDS])
    assert np.array_equal(found, vision_utils.get_vision_position_ids(THW, 2))


@pytest.mark.parametrize("side", [4, 7, 48])
def test_the_table_is_interpolated_as_in_the_model(side: int) -> None:
    rows, weights = zip(
        *(runtime.interpolation(runtime.patch_positions(grid, 2), grid, side) for grid in GRIDS), strict=True
    )
    expected = vision_utils.get_vision_interpolation_indices_and_weights(
        THW, side, align_corners=True, spatial_merge_size=2
    )
    assert np.array_equal(np.concatenate(rows).reshape(-1, 4), expected[0])
    assert np.array_equal(np.concatenate(weights).reshape(-1, 4), expected[1])


@pytest.mark.parametrize("window", [2, 3, 4])
def test_windows_are_those_of_the_model(window: int) -> None:
    order, ends = vision_utils.get_vision_window_index(THW, 2, window * 2 * 8, 8)
    in_order = np.arange(int(THW.prod(1).sum())).reshape(-1, 4)[order].flatten()
    expected = {frozenset(part) for part in np.split(in_order, ends[1:-1])}
    found, start = set(), 0
    for grid in GRIDS:
        places = runtime.patch_positions(grid, 2).reshape(-1, 2)
        found |= {frozenset(part + start) for part in runtime.windows_of(places // (2 * window))}
        start += len(places)
    assert found == expected


def test_packed_groups_are_found_again() -> None:
    table, slots = runtime.packed([np.array([3, 0]), np.array([1]), np.array([4, 2, 5])])
    assert table.tolist() == [[3, 0, -1], [1, -1, -1], [4, 2, 5]]
    assert np.array_equal(table.flatten()[slots], np.arange(6))


# What is not exported


def numbers_its_images(model: Any) -> None:
    model[0].processor.chat_template = REAL_TEMPLATE
    model[0].processing_kwargs["chat_template"]["add_vision_id"] = True


def knows_no_system(model: Any) -> None:
    model[0].processor.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system message') }}{% endif %}" + REAL_TEMPLATE
    )


def adds_a_layer(model: Any) -> None:
    model.append(Dense(32, 16))


def pools_otherwise(model: Any) -> None:
    model[1] = Pooling(32, "max")


def leaves_the_prompt_out(model: Any) -> None:
    model[1] = Pooling(32, "mean", include_prompt=False)


def slides(model: Any) -> None:
    model[0].model.config.text_config.layer_types = ["full_attention", "sliding_attention"]


def looks_ahead(model: Any) -> None:
    model[0].model.config.text_config.is_causal = False


def scales_positions(model: Any) -> None:
    model[0].model.config.text_config.rope_parameters["rope_type"] = "yarn"


def cuts_vectors(model: Any) -> None:
    model.truncate_dim = 16


def does_not_resize(model: Any) -> None:
    model[0].processor.image_processor.do_resize = False


def sets_the_processor(model: Any) -> None:
    model[0].processing_kwargs["image"] = {"size": {"shortest_edge": 64, "longest_edge": 64}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (numbers_its_images, "chat template does not write instruction, images and text in a row"),
        (knows_no_system, "chat template does not write every item: no system message"),
        (adds_a_layer, "Dense after its pooling"),
        (pools_otherwise, "pools by max"),
        (leaves_the_prompt_out, "leaves instructions out of its mean"),
        (slides, "layers slide"),
        (looks_ahead, "not causal"),
        (scales_positions, "rotary positions are scaled"),
        (cuts_vectors, "it cuts its vectors"),
        (does_not_resize, "leaves out a step of image processing"),
        (sets_the_processor, "sets image of its processor"),
    ],
)
def test_what_is_not_in_the_graph_is_refused(
    change: Callable[[Any], None], problem: str, sentence_transformer: Path
) -> None:
    model = opened(sentence_transformer)
    change(model)
    with pytest.raises(Refused, match=problem):
        exporter.describe(model, Path("model"))


def test_a_processor_of_other_pixels_is_refused(sentence_transformer: Path) -> None:
    """Negative control of the comparison that every export makes."""
    model = opened(sentence_transformer)
    preparation = preparation_of(model)
    exporter.demand_same_inputs(preparation, model[0], "model")
    other = replace(preparation.description, image_mean=(0.4, 0.4, 0.4))
    with pytest.raises(Refused, match="other pixels"):
        exporter.demand_same_inputs(Preparation(other, preparation.tokenizer), model[0], "model")
    other = replace(preparation.description, prompt=("<|im_start|>user:\n", "<|im_end|>\n"))
    with pytest.raises(Refused, match="other tokens"):
        exporter.demand_same_inputs(Preparation(other, preparation.tokenizer), model[0], "model")


def test_reads_what_it_can_export_and_nothing_else(sentence_transformer: Path, tmp_path: Path) -> None:
    assert exporter.reads(sentence_transformer)
    assert not exporter.reads(tmp_path)
    load_whole("random:llava_onevision", "lasttoken", 0).save(str(tmp_path / "llava"))
    assert not exporter.reads(tmp_path / "llava")
    (tmp_path / "modules.json").write_text("no JSON")
    assert not exporter.reads(tmp_path)


def test_a_module_of_another_name_is_no_transformer(sentence_transformer: Path) -> None:
    with pytest.raises(Refused, match="no Transformer with a Pooling"):
        exporter.describe(SentenceTransformer(modules=[opened(sentence_transformer)[0]]), Path("model"))

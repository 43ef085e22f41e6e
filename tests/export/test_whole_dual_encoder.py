"""A whole CLIP or SigLIP answers after its export as transformers' own processor and model do; what does not is found.

What is expected is computed by transformers alone. The weights are large enough for a wrong input to show.
"""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from tokenizers import pre_tokenizers
from transformers import AutoModel, AutoProcessor, CLIPTokenizer, Siglip2ImageProcessorPil

from components.backends.directory import open_directory
from components.backends.tiny import write_tiny
from components.backends.whole_model import load_whole
from components.corpus import Item
from components.embedder import Embedder, OnnxEmbedder, Vectors, runtime
from components.embedder.module_file import module_source
from components.errors import UsageError
from components.export.exporters import exporter_of, whole_dual_encoder
from components.export.runtimes import whole_dual_encoder as whole_runtime
from components.export.runtimes.whole_dual_encoder import (
    DESCRIPTION,
    Description,
    Runtime,
    UnreadableImage,
    image_inputs,
    load_image,
)

pytestmark = pytest.mark.slow  # whole models are exported

LARGEST_DIFFERENCE = 1e-5
PADDING: dict[str, dict[str, Any]] = {
    "clip": {"padding": True, "truncation": True},
    "siglip": {"padding": "max_length", "max_length": 64, "truncation": True},
    "siglip2": {"padding": "max_length", "max_length": 64, "truncation": True},
    "vision_text": {"padding": True, "truncation": True},
}
TEXTS = [
    "a sad cat",
    "The HAPPY dog, left of the red tree!",
    "Ein müdes Gesicht über dem Fluß",
    "грустный кот и две собаки",
    "泣いている猫と赤い木",
    "قطة حزينة",
    "एक उदास बिल्ली",
    "😀 a 👩🏽‍🚀 in space",
    "  many   spaces\tand\nlines ",
    "</s> <|endoftext|> <pad> are words here",
    "café cafe\u0301 ﬁne",
    " ",
    "\n\t",
    "over-long " * 60,
    "非常に長い" * 60,
    "x",
]


def byte_words() -> CLIPTokenizer:
    """CLIP's own tokenizer, which lowers case and ends words, of single bytes and a few merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("a", "t</w>"), ("c", "at</w>"), ("t", "h"), ("th", "e</w>")]
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens = [*words, "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=64)


def write_source(architecture: str, folder: Path) -> Path:
    """Returns a model as the training of a whole model saves it; a CLIP has CLIP's own tokenizer."""
    write_tiny(architecture, folder / "tiny", seed=3)
    if architecture == "clip":
        own, tokenizer = AutoModel.from_pretrained(folder / "tiny"), byte_words()
        own.text_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        own.config.text_config.update(ids | {"pad_token_id": tokenizer.pad_token_id})
        own.save_pretrained(folder / "tiny")
        tokenizer.save_pretrained(folder / "tiny")
    model = load_whole(str(folder / "tiny"), None, 3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(1.5)
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


@dataclass(frozen=True)
class Exported:
    architecture: str
    source: Path
    directory: Path

    def opened(self, batch_size: int = 64) -> OnnxEmbedder:
        return OnnxEmbedder(self.directory, batch_size, threads=1)


@pytest.fixture(scope="module", params=list(PADDING))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp(request.param)
    source = write_source(request.param, folder)
    exporter_of(source).export(source, folder / "onnx", 20)
    return Exported(request.param, source, folder / "onnx")


def images() -> dict[str, Image.Image]:
    """An image of noise of every mode and of many shapes."""
    noise = np.random.default_rng(1)

    def coarse(width: int, height: int, colours: int = 3) -> np.ndarray:
        small = noise.integers(0, 256, (5, 5, colours), np.uint8)
        channels = [Image.fromarray(small[..., colour]).resize((width, height)) for colour in range(colours)]
        return np.stack([np.asarray(channel) for channel in channels], axis=-1)

    rgb = Image.fromarray(coarse(40, 30))
    return {
        "rgb": rgb,
        "rgba": Image.fromarray(coarse(33, 47, 4), "RGBA"),
        "palette": Image.fromarray(coarse(50, 21)).quantize(17),
        "grey": Image.fromarray(coarse(19, 23)).convert("L"),
        "cmyk": Image.fromarray(coarse(31, 29)).convert("CMYK"),
        "very wide": Image.fromarray(coarse(400, 3)),
        "very tall": Image.fromarray(coarse(2, 300)),
        "one pixel": Image.fromarray(coarse(1, 1)),
        "small": Image.fromarray(coarse(7, 5)),
        "own size": Image.fromarray(coarse(16, 16)),
        "odd": Image.fromarray(coarse(17, 16)),
    }


def by_transformers(architecture: str, source: Path, texts: list[str], pictures: list[Image.Image]) -> Vectors:
    """Returns the unit vectors of the texts, then of the images, each computed alone."""
    processor, model = AutoProcessor.from_pretrained(source), AutoModel.from_pretrained(source).eval()
    found = []
    with torch.inference_mode():
        for text in texts:
            found.append(
                model.get_text_features(**processor(text=[text], return_tensors="pt", **PADDING[architecture]))
            )
        for image in pictures:
            found.append(model.get_image_features(**processor(images=[load_image(image)], return_tensors="pt")))
    vectors = torch.cat([output.pooler_output for output in found])
    unit: Vectors = torch.nn.functional.normalize(vectors, dim=-1).numpy()
    return unit


def difference(exported: Exported, embedder: Embedder) -> float:
    """Returns the largest difference of a number of a vector to what transformers computes."""
    known = images()
    if exported.architecture == "siglip2":
        del known["very tall"]  # see `resized_by_torch`
    pictures = list(known.values())
    expected = by_transformers(exported.architecture, exported.source, TEXTS, pictures)
    return float(np.abs(embedder.encode([*map(Item, TEXTS), *(Item(image=one) for one in pictures)]) - expected).max())


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_graphs_answer_as_transformers_does(exported: Exported, batch_size: int) -> None:
    assert difference(exported, exported.opened(batch_size)) <= LARGEST_DIFFERENCE


def composed() -> list[Item]:
    """Texts, images, and both, without and with an instruction."""
    pictures = [image for name, image in images().items() if name != "very tall"]
    bare = [*map(Item, TEXTS), *(Item(image=one) for one in pictures), *map(Item, TEXTS, pictures)]
    return [*bare, *(replace(item, instruction="find the same") for item in bare)]


def test_instructions_and_composed_items_are_answered_as_the_model_does(exported: Exported) -> None:
    reference = open_directory(str(exported.source), 8)
    assert isinstance(reference, Embedder)
    np.testing.assert_allclose(
        exported.opened().encode(composed()), reference.encode(composed()), atol=LARGEST_DIFFERENCE
    )


def test_a_default_prompt_stands_before_a_text_without_instruction(exported: Exported, tmp_path: Path) -> None:
    model = SentenceTransformer(str(exported.source), prompts={"passage": "passage: "}, default_prompt_name="passage")
    model.save(str(tmp_path / "model"), create_model_card=False)
    copy = changed(exported, tmp_path / "onnx", prompt=whole_dual_encoder.describe(model, tmp_path).prompt)
    reference = open_directory(str(tmp_path / "model"), 8)
    assert isinstance(reference, Embedder)
    expected = reference.encode(composed())
    np.testing.assert_allclose(copy.opened().encode(composed()), expected, atol=LARGEST_DIFFERENCE)
    assert np.abs(exported.opened().encode(composed()) - expected).max() > 1e-3


def test_no_neighbour_in_a_batch_changes_a_vector(exported: Exported) -> None:
    embedder, items = exported.opened(), composed()
    alone = np.concatenate([embedder.encode([item]) for item in items])
    np.testing.assert_allclose(embedder.encode(items), alone, atol=LARGEST_DIFFERENCE)
    np.testing.assert_allclose(embedder.encode(items[::-1])[::-1], alone, atol=LARGEST_DIFFERENCE)
    np.testing.assert_allclose(np.linalg.norm(alone, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", images())
def test_pixels_are_those_of_transformers(exported: Exported, name: str) -> None:
    image = load_image(images()[name])
    expected = AutoProcessor.from_pretrained(exported.source)(images=[image], return_tensors="np")["pixel_values"]
    found = image_inputs([image], Runtime(exported.directory, threads=1).description)["pixel_values"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [{"shortest_edge": 11}, {"shortest_edge": 24}, {"height": 10, "width": 13}])
@pytest.mark.parametrize("resample", [0, 2, 3])
def test_pixels_are_those_of_transformers_whatever_the_settings(
    exported: Exported, size: dict[str, int], resample: int
) -> None:
    if exported.architecture == "siglip2":
        pytest.skip("its images keep their shape")
    model = SentenceTransformer(str(exported.source))
    processor: Any = model[0].processor.image_processor
    changes = {"size": size, "resample": resample, "do_center_crop": True, "crop_size": {"height": 15, "width": 18}}
    for key, value in changes.items():
        setattr(processor, key, value)
    description = whole_dual_encoder.describe(model, exported.source)
    for image in map(load_image, images().values()):
        expected = processor([image], return_tensors="np")["pixel_values"]
        np.testing.assert_array_equal(image_inputs([image], description)["pixel_values"], expected)


@pytest.mark.parametrize("most", [4, 100, 256])
def test_patches_lie_where_transformers_puts_them(most: int) -> None:
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=most)
    table, half = torch.randn(5, 5, 3), (0.5, 0.5, 0.5)
    description = Description(3, (), "", (), (), None, (8, most, 5), int(processor.resample), 1 / 255, half, half)
    shown = [load_image(image) for image in images().values()]
    expected, inputs = processor(shown, return_tensors="pt"), image_inputs(shown, description)
    np.testing.assert_array_equal(inputs["pixel_values"], expected["pixel_values"])
    places = whole_dual_encoder.resized_positions(table, torch.from_numpy(inputs["positions"]))
    there = expected["pixel_attention_mask"].bool()
    np.testing.assert_array_equal(inputs["positions"].sum(-1) > 0.5, there)
    found, otherwise = [], []
    for rows, columns in expected["spatial_shapes"].tolist():
        resized, transposed = (
            resized_by_torch(table, rows, columns),
            resized_by_torch(table.transpose(0, 1), rows, columns),
        )
        found.append(resized)
        otherwise.append(transposed)
    torch.testing.assert_close(places[there], torch.cat(found), rtol=0, atol=1e-5)
    assert not torch.allclose(places[there], torch.cat(otherwise), atol=0.1), "swapped rows and columns are found out"


def resized_by_torch(table: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Returns `(rows * columns, width)`. Resized to one column, every row is the first one in torch 2.13 on a
    processor; resized to one row, every column is as it should be."""
    turned = table if columns > 1 else table.transpose(0, 1)
    size = (rows, columns) if columns > 1 else (columns, rows)
    image = turned.permute(2, 0, 1).unsqueeze(0)
    resized = torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    return resized.flatten(2)[0].T


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_transformers(exported: Exported, text: str) -> None:
    found = Runtime(exported.directory, threads=1).tokens([text, "a cat"])
    expected = AutoProcessor.from_pretrained(exported.source)(
        text=[text, "a cat"], return_tensors="np", **PADDING[exported.architecture]
    )
    for name, tokens in found.items():
        np.testing.assert_array_equal(tokens, expected[name])
    assert found["input_ids"].shape[1] <= 64


def changed(exported: Exported, copy: Path, **description: Any) -> Exported:
    """Returns a copy of an exported model with another description."""
    shutil.copytree(exported.directory, copy)
    known = json.loads((copy / DESCRIPTION).read_text())
    assert description.keys() <= known.keys() and known | description != known
    (copy / DESCRIPTION).write_text(json.dumps(known | description))
    return replace(exported, directory=copy)


def with_tokenizer(exported: Exported, copy: Path, change: Callable[[dict[str, Any]], None]) -> Exported:
    shutil.copytree(exported.directory, copy)
    tokenizer = json.loads((copy / "tokenizer.json").read_text())
    before = json.dumps(tokenizer)
    change(tokenizer)
    assert json.dumps(tokenizer) != before
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    return replace(exported, directory=copy)


def other_vocabulary(tokenizer: dict[str, Any]) -> None:
    known = tokenizer["model"]["vocab"]
    one, other = ("a", "x") if "a" in known else ("<0x61>", "<0x78>")
    known[one], known[other] = known[other], known[one]


def shorter(tokenizer: dict[str, Any]) -> None:
    tokenizer["truncation"]["max_length"] = 32


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": [0.0] * 3, "std": [1.0] * 3},
        {"mean": [0.3, 0.4, 0.5]},
        {"std": [0.4, 0.3, 0.2]},
        {"rescale": 1.0},
        {"resample": 0},
        {"size": [16, 20], "crop": [16, 16]},
    ],
    ids=str,
)
def test_another_preparation_of_images_is_found_out(exported: Exported, tmp_path: Path, wrong: dict[str, Any]) -> None:
    if exported.architecture == "siglip2" and "size" in wrong:
        pytest.skip("its images keep their shape")
    assert difference(exported, changed(exported, tmp_path / "onnx", **wrong).opened()) > 100 * LARGEST_DIFFERENCE


@pytest.mark.parametrize("wrong", [other_vocabulary, shorter])
def test_another_tokenizer_is_found_out(
    exported: Exported, tmp_path: Path, wrong: Callable[[dict[str, Any]], None]
) -> None:
    copy = with_tokenizer(exported, tmp_path / "onnx", wrong)
    assert difference(exported, copy.opened()) > 100 * LARGEST_DIFFERENCE


def test_swapped_towers_are_found_out(exported: Exported) -> None:
    embedder = exported.opened()
    own = embedder.runtime
    own.text_session, own.image_session = own.image_session, own.text_session
    with pytest.raises(ValueError, match=r"(?i)invalid|output|input"):
        difference(exported, embedder)


def test_the_towers_of_another_model_are_found_out(exported: Exported, tmp_path: Path) -> None:
    own = AutoModel.from_pretrained(exported.source)
    with torch.no_grad():
        next(weight for name, weight in own.named_parameters() if "vision" in name and weight.ndim > 1).mul_(1.1)
    shutil.copytree(exported.source, tmp_path / "model")
    own.save_pretrained(tmp_path / "model")
    other = replace(exported, source=tmp_path / "model")
    assert difference(other, exported.opened()) > 100 * LARGEST_DIFFERENCE


def test_what_is_far_too_narrow_or_empty_is_refused(exported: Exported) -> None:
    embedder = exported.opened()
    with pytest.raises(ValueError, match="item 1 has neither text nor image"):
        embedder.encode([Item("a cat"), Item()])
    if "siglip" not in exported.architecture:  # those make a square, or few patches, of whatever comes
        with pytest.raises(UnreadableImage, match="200000x1: it is far too narrow"):
            image_inputs([Image.new("RGB", (200_000, 1))], embedder.runtime.description)


def test_the_runtime_is_the_code_that_runs_here_and_needs_nothing_of_this_project(exported: Exported) -> None:
    source = (exported.directory / "runtime.py").read_text()
    assert source == module_source(whole_dual_encoder.PURPOSE, whole_runtime.Runtime)
    for part in (whole_runtime.Runtime, runtime.load_image, runtime.normalise, runtime.session):
        assert inspect.getsource(part) in source
    assert "components" not in source


def test_what_the_runtime_cannot_do_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    load_whole("random:clip", None, 0).save(str(tmp_path / "model"), create_model_card=False)
    file = tmp_path / "model" / "processor_config.json"
    settings = json.loads(file.read_text())
    settings["image_processor"] |= {"do_center_crop": False}
    file.write_text(json.dumps(settings))
    with pytest.raises(UsageError, match="its images are not resized to one size"):
        whole_dual_encoder.export(tmp_path / "model", tmp_path / "onnx", 20)
    assert not (tmp_path / "onnx").exists()


def directories(tmp_path: Path) -> Iterator[Path]:
    for architecture in ("idefics3", "qwen2_vl"):
        write_tiny(architecture, tmp_path / architecture)
        yield tmp_path / architecture
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "modules.json").write_text("[]")
    yield tmp_path / "broken"


def test_other_directories_are_not_read(tmp_path: Path) -> None:
    assert [whole_dual_encoder.reads(directory) for directory in directories(tmp_path)] == [False] * 3

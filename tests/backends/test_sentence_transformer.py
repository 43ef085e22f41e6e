import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.input_module import InputModule
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from transformers import AutoProcessor, CLIPModel

from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.corpus import Item
from components.embedder import Vectors
from components.embedder.runtime import load_image, normalise
from components.errors import UsageError

TEXTS = ["a sad cat", "the happy dog is left of the red tree", "one", "find the face", "a blue face"]


@pytest.fixture(scope="session")
def sentences(sentence_model: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(sentence_model, batch_size=2)


@pytest.fixture(scope="session")
def towers(clip_model: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(clip_model, batch_size=2)


@pytest.fixture(scope="session")
def chat(chat_model: Path) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(chat_model, batch_size=2)


def differ(one: Vectors, other: Vectors) -> bool:
    return bool(np.abs(one - other).max() > 1e-3)


def test_texts_have_the_vectors_of_the_library(sentences: SentenceTransformerEmbedder, sentence_model: Path) -> None:
    expected = SentenceTransformer(str(sentence_model), device="cpu").encode(TEXTS, normalize_embeddings=True)
    vectors = sentences.encode([Item(text) for text in TEXTS])
    assert vectors.dtype == np.float32 and vectors.shape == (5, sentences.dimension) == (5, 24)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert differ(vectors[0], vectors[1])


def test_no_items_are_no_vectors(sentences: SentenceTransformerEmbedder) -> None:
    assert sentences.encode([]).shape == (0, 24)


def test_an_instruction_stands_before_the_text(sentences: SentenceTransformerEmbedder) -> None:
    instructed, written, bare = sentences.encode(
        [Item("red tree", instruction="find the"), Item("find the red tree"), Item("red tree")]
    )
    np.testing.assert_allclose(instructed, written, atol=1e-5)
    assert differ(instructed, bare)


def test_a_model_that_pools_without_its_prompt_pools_without_the_instruction(
    sentence_model: Path, tmp_path: Path
) -> None:
    model = SentenceTransformer(str(sentence_model), device="cpu")
    model.set_pooling_include_prompt(False)
    model.save(str(tmp_path / "model"), create_model_card=False)
    embedder = SentenceTransformerEmbedder(tmp_path / "model")
    instructed, written = embedder.encode([Item("red tree", instruction="find the"), Item("find the red tree")])
    expected = model.encode("red tree", prompt="find the ", normalize_embeddings=True)
    np.testing.assert_allclose(instructed, expected, atol=1e-5)
    assert differ(instructed, written)


def test_each_side_has_its_prompt_and_an_instruction_takes_its_place(sentence_model: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(str(sentence_model), device="cpu")
    model.prompts = {"query": "find ", "document": "the ", "any": "a "}
    model.default_prompt_name = "any"
    model.save(str(tmp_path / "model"), create_model_card=False)
    embedder = SentenceTransformerEmbedder(tmp_path / "model")

    def plain(text: str) -> Vectors:
        vector: Vectors = model.encode(text, prompt="", normalize_embeddings=True)
        return vector

    for side, prompt in (("query", "find"), ("document", "the"), (None, "a")):
        vectors = embedder.encode([Item("cat"), Item("cat", instruction="one")], side)  # type: ignore[arg-type]
        np.testing.assert_allclose(vectors[0], plain(f"{prompt} cat"), atol=1e-5)
        np.testing.assert_allclose(vectors[1], plain("one cat"), atol=1e-5)
    assert differ(plain("find cat"), plain("cat"))


def test_a_module_that_takes_bare_texts_alone_gets_them(text_model: Path, tmp_path: Path) -> None:
    words = StaticEmbedding(Tokenizer.from_file(str(text_model / "tokenizer.json")), embedding_dim=8)
    model = SentenceTransformer(modules=[words], device="cpu")
    model.save(str(tmp_path / "words"), create_model_card=False)
    vectors = SentenceTransformerEmbedder(tmp_path / "words").encode([Item("a cat"), Item("cat", instruction="a")])
    np.testing.assert_allclose(vectors, model.encode(["a cat"] * 2, normalize_embeddings=True), atol=1e-6)


def test_neither_order_nor_batches_change_a_vector(
    towers: SentenceTransformerEmbedder, clip_model: Path, image_files: Sequence[Path]
) -> None:
    items = (
        [Item(text) for text in TEXTS]
        + [Item(image=file) for file in image_files]
        + list(map(Item, TEXTS, image_files))
    )
    together = towers.encode(items)
    np.testing.assert_allclose(towers.encode(items[::-1])[::-1], together, atol=1e-5)
    np.testing.assert_allclose(SentenceTransformerEmbedder(clip_model, 100).encode(items), together, atol=1e-5)


def test_a_dual_encoder_has_the_vectors_of_transformers_and_their_sum(
    towers: SentenceTransformerEmbedder, clip_model: Path, image_files: Sequence[Path]
) -> None:
    model, processor = CLIPModel.from_pretrained(clip_model).eval(), AutoProcessor.from_pretrained(clip_model)
    decoded = [load_image(file) for file in image_files]
    with torch.inference_mode():
        texts_of = model.get_text_features(**processor(text=TEXTS, padding=True, return_tensors="pt")).pooler_output
        images_of = model.get_image_features(**processor(images=decoded, return_tensors="pt")).pooler_output
    texts, seen = normalise(texts_of.numpy()), normalise(images_of.numpy())
    np.testing.assert_allclose(towers.encode([Item(text) for text in TEXTS]), texts, atol=1e-5)
    np.testing.assert_allclose(towers.encode([Item(image=file) for file in image_files]), seen, atol=1e-5)
    np.testing.assert_allclose(towers.encode(list(map(Item, TEXTS, image_files))), normalise(texts + seen), atol=1e-5)
    assert differ(normalise(texts + seen), normalise(texts_of.numpy() + images_of.numpy()))
    assert towers.dimension == 32


def test_paths_bytes_and_images_in_memory_are_the_same(
    towers: SentenceTransformerEmbedder, image_files: Sequence[Path]
) -> None:
    vectors = towers.encode(
        [Item(image=image_files[1]), Item(image=image_files[1].read_bytes()), Item(image=Image.open(image_files[1]))]
    )
    np.testing.assert_allclose(vectors, vectors[[0, 0, 0]], atol=1e-6)


def test_an_instruction_of_a_dual_encoder_goes_with_the_text_and_is_no_part_of_its_own(
    towers: SentenceTransformerEmbedder, image_files: Sequence[Path]
) -> None:
    image, alone, written, both, expected = towers.encode(
        [
            Item(image=image_files[0]),
            Item(image=image_files[0], instruction="find the face"),
            Item("find a cat"),
            Item("a cat", image_files[0], instruction="find"),
            Item("find a cat", image_files[0]),
        ]
    )
    np.testing.assert_allclose(alone, image, atol=1e-6)
    np.testing.assert_allclose(both, expected, atol=1e-6)
    np.testing.assert_allclose(both, normalise(image + written), atol=1e-6)


@pytest.mark.parametrize("address", ["https://example.org/cat.png", "data:image/png;base64,AAAA", "http://youtu.be/a"])
def test_a_text_that_looks_like_an_address_is_a_text(
    address: str, towers: SentenceTransformerEmbedder, clip_model: Path
) -> None:
    model, processor = CLIPModel.from_pretrained(clip_model).eval(), AutoProcessor.from_pretrained(clip_model)
    with torch.inference_mode():
        expected = model.get_text_features(**processor(text=[address], return_tensors="pt")).pooler_output
    np.testing.assert_allclose(towers.encode([Item(address)]), normalise(expected.numpy()), atol=1e-5)


def test_a_chat_model_gets_text_and_image_at_once_and_the_instruction_as_system_message(
    chat: SentenceTransformerEmbedder, image_files: Sequence[Path]
) -> None:
    image = load_image(image_files[0])
    user = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "a cat"}]}
    system = {"role": "system", "content": [{"type": "text", "text": "find"}]}
    expected = normalise(chat.model.encode([[user], [system, user]]))
    items = [Item("a cat", image_files[0]), Item("a cat", image_files[0], instruction="find")]
    items += [Item("a cat"), Item(image=image_files[0]), Item(image=image_files[0], instruction="find")]
    vectors = chat.encode(items)
    np.testing.assert_allclose(vectors[:2], expected, atol=1e-5)
    assert differ(vectors[0], vectors[1]) and differ(vectors[3], vectors[4])
    assert differ(vectors[0], normalise(vectors[2] + vectors[3]))


def test_what_a_model_does_not_take_is_refused_by_item_and_model(
    sentences: SentenceTransformerEmbedder,
    towers: SentenceTransformerEmbedder,
    chat: SentenceTransformerEmbedder,
    image_files: Sequence[Path],
) -> None:
    frames = tuple(image_files[:2])
    for embedder, item, message in (
        (sentences, Item(image=image_files[0]), "item 1 is of image, and sentences takes text"),
        (sentences, Item("a cat", image_files[0]), "item 1 is of image and text, and sentences takes text"),
        (towers, Item(video=frames), "item 1 is of video, and two-towers takes text, image"),
        (towers, Item("a cat", video=frames), "item 1 is of text and video"),
        (chat, Item(video=frames), "item 1 is of video, and chat takes text, image, message"),
        (towers, Item(), "item 1 has neither text nor image"),
        (towers, Item(instruction="find"), "item 1 has neither text nor image"),
    ):
        with pytest.raises(UsageError, match=message):
            embedder.encode([Item("a cat"), item])


def test_an_unreadable_image_is_named(towers: SentenceTransformerEmbedder, tmp_path: Path) -> None:
    broken, missing = tmp_path / "broken.png", tmp_path / "missing.png"
    broken.write_bytes(b"no image")
    for file in (broken, missing):
        with pytest.raises(UsageError, match=f"item 1: {file}"):
            towers.encode([Item("a cat"), Item(image=file)])


class MeanColour(InputModule):
    """A model of images and videos: the mean colour of all frames."""

    modalities = ["image", "video"]  # noqa: RUF012

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        frames = [part["video"] if "video" in part else [part["image"]] for part in inputs]
        colours = [np.mean([np.asarray(frame, np.float32).mean((0, 1)) for frame in shown], 0) for shown in frames]
        return {"colours": torch.from_numpy(np.array(colours))}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        return features | {"sentence_embedding": features["colours"]}

    def get_embedding_dimension(self) -> int:
        return 3

    def save(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError


def test_a_model_that_takes_videos_gets_their_frames(sentence_model: Path, image_files: Sequence[Path]) -> None:
    embedder = SentenceTransformerEmbedder(sentence_model)
    embedder.model = SentenceTransformer(modules=[MeanColour()], device="cpu")  # type: ignore[no-untyped-call]
    frames = [np.asarray(load_image(file), np.float32).mean((0, 1)) for file in image_files[:3]]
    vectors = embedder.encode([Item(video=tuple(image_files[:3])), Item(image=image_files[0])])
    np.testing.assert_allclose(vectors, normalise(np.array([np.mean(frames, 0), frames[0]])), atol=1e-5)


def test_a_directory_that_cannot_be_loaded_is_refused(sentence_model: Path, directory: Path, tmp_path: Path) -> None:
    shutil.copytree(sentence_model, tmp_path / "cut")
    with (tmp_path / "cut" / "model.safetensors").open("r+b") as weights:
        weights.truncate(1000)
    shutil.copytree(sentence_model, tmp_path / "foreign")
    modules = json.loads((sentence_model / "modules.json").read_text())
    modules[0]["type"] = "somebody.elses.Module"
    (tmp_path / "foreign" / "modules.json").write_text(json.dumps(modules))
    for model in (tmp_path / "cut", tmp_path / "foreign", directory):
        with pytest.raises(UsageError, match=f"{model}: sentence-transformers cannot load it"):
            SentenceTransformerEmbedder(model)

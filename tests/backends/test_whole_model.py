import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor

from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.backends.tiny import ARCHITECTURES, write_tiny
from components.backends.whole_model import load_whole
from components.corpus import Item
from components.embedder import Vectors
from components.embedder.runtime import load_image, normalise
from components.errors import UsageError

TEXTS = ["a sad cat", "the happy dog is left of the red tree, as it was on every other day", "one", "face", "a 😀"]
POOLS_ITSELF = ("clip", "siglip", "siglip2", "vision_text")
GENERATIVE = tuple(architecture for architecture in ARCHITECTURES if architecture not in POOLS_ITSELF)


def load(architecture: str) -> SentenceTransformer:
    return load_whole(f"random:{architecture}", None if architecture in POOLS_ITSELF else "lasttoken", 3)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def embedder(request: pytest.FixtureRequest) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(load(request.param), batch_size=100)


@pytest.fixture(scope="module")
def items(image_files: Sequence[Path]) -> list[Item]:
    """Texts, images, both, each without and with an instruction."""
    bare = [*map(Item, TEXTS), *(Item(image=file) for file in image_files), *map(Item, TEXTS, image_files)]
    return [*bare, *(Item(item.text, item.image, instruction="find it") for item in bare)]


def test_text_image_and_both_have_vectors_of_their_own(
    embedder: SentenceTransformerEmbedder, items: list[Item]
) -> None:
    vectors = embedder.encode(items[:15])
    assert vectors.shape == (15, embedder.dimension) and np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similarities = vectors @ vectors.T
    assert similarities[np.triu_indices(15, 1)].max() < 0.999


def test_a_vector_does_not_depend_on_its_neighbours(embedder: SentenceTransformerEmbedder, items: list[Item]) -> None:
    alone = np.concatenate([embedder.encode([item]) for item in items])
    np.testing.assert_allclose(embedder.encode(items), alone, atol=1e-5)


def test_a_saved_model_gives_the_same_vectors(
    embedder: SentenceTransformerEmbedder, items: list[Item], tmp_path: Path
) -> None:
    embedder.model.save(str(tmp_path / "model"), create_model_card=False)
    reloaded = [SentenceTransformerEmbedder(tmp_path / "model").model, load_whole(str(tmp_path / "model"), None, 9)]
    for model in reloaded:
        vectors = SentenceTransformerEmbedder(model).encode(items)
        np.testing.assert_allclose(vectors, embedder.encode(items), atol=1e-6)


@pytest.mark.parametrize("architecture", GENERATIVE)
def test_the_last_token_is_found_on_whichever_side_padding_is(architecture: str, items: list[Item]) -> None:
    model = load(architecture)
    vectors = {}
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        vectors[side] = SentenceTransformerEmbedder(model, batch_size=100).encode(items)
    np.testing.assert_allclose(vectors["left"], vectors["right"], atol=1e-5)
    features = model.preprocess([{"text": text} for text in TEXTS])
    assert not features["attention_mask"][:, -1].all()
    with torch.inference_mode():
        at_the_end = normalise(model(features)["token_embeddings"][:, -1].cpu().numpy())
    assert np.abs(at_the_end - vectors["right"][:5]).max() > 1e-3


@pytest.mark.parametrize("architecture", GENERATIVE)
def test_the_vector_is_the_last_hidden_state_of_the_chat_that_transformers_writes(
    architecture: str, image_files: Sequence[Path], tmp_path: Path
) -> None:
    write_tiny(architecture, tmp_path / "model", 3)
    model, processor = (auto.from_pretrained(tmp_path / "model") for auto in (AutoModel, AutoProcessor))
    image = load_image(image_files[4])
    parts = [{"type": "image", "image": image}, {"type": "text", "text": "a cat"}]
    expected = []
    for content in (parts[:1], parts[1:], parts):
        features = processor.apply_chat_template(
            [[{"role": "user", "content": content}]], tokenize=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model.eval()(**features).last_hidden_state
        expected.append(hidden[0, -1].numpy())
    encode = SentenceTransformerEmbedder(load(architecture)).encode
    found = encode([Item(image=image_files[4]), Item("a cat"), Item("a cat", image_files[4])])
    np.testing.assert_allclose(found, normalise(np.array(expected)), atol=1e-5)


@pytest.mark.parametrize("architecture", ["siglip", "siglip2"])
def test_without_full_length_a_text_of_siglip_would_depend_on_its_neighbours(architecture: str) -> None:
    def largest_difference(model: SentenceTransformer) -> float:
        embedder = SentenceTransformerEmbedder(model, batch_size=100)
        alone = np.concatenate([embedder.encode([Item(text)]) for text in TEXTS])
        return float(np.abs(embedder.encode(list(map(Item, TEXTS))) - alone).max())

    model: Any = load(architecture)
    assert largest_difference(model) < 1e-5
    model[0].processing_kwargs = {}
    assert largest_difference(model) > 1e-2


def test_mean_pooling_is_another_vector(image_files: Sequence[Path]) -> None:
    def encode(pooling: Any) -> Vectors:
        return SentenceTransformerEmbedder(load_whole("random:qwen2_vl", pooling, 3)).encode(
            [Item("a", image_files[0])]
        )

    assert np.abs(encode("mean") - encode("lasttoken")).max() > 1e-2


@pytest.mark.parametrize(("architecture", "token"), [("qwen2_vl", "<|image_pad|>"), ("llava_onevision", "<image>")])
def test_words_that_stand_for_an_image_are_words_in_a_text(
    architecture: str, token: str, image_files: Sequence[Path]
) -> None:
    embedder = SentenceTransformerEmbedder(load(architecture))
    vectors = embedder.encode([Item(f"a {token} cat"), Item("a cat"), Item(f"a {token} cat", image_files[0])])
    assert np.isfinite(vectors).all() and np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_the_files_of_older_directories_mean_the_same(image_files: Sequence[Path], tmp_path: Path) -> None:
    directory = tmp_path / "model"
    write_tiny("qwen2_vl", directory, 3)
    processor = json.loads((directory / "processor_config.json").read_text())
    template = (directory / "chat_template.jinja").read_text()
    for file in ("processor_config.json", "chat_template.jinja"):
        (directory / file).unlink()
    images_of_old = processor["image_processor"] | {"processor_class": "Qwen2VLProcessor"}
    (directory / "preprocessor_config.json").write_text(json.dumps(images_of_old))
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    old, new = (
        SentenceTransformerEmbedder(load_whole(model, "lasttoken", 3)).encode([Item("a cat", image_files[3])])
        for model in (str(directory), "random:qwen2_vl")
    )
    np.testing.assert_allclose(old, new, atol=1e-6)


def test_weights_are_float32_whatever_the_directory_holds(tmp_path: Path) -> None:
    write_tiny("clip", tmp_path / "model")
    halved = AutoModel.from_pretrained(tmp_path / "model").bfloat16()
    halved.save_pretrained(tmp_path / "model")
    assert AutoModel.from_pretrained(tmp_path / "model").dtype == torch.bfloat16
    assert load_whole(str(tmp_path / "model"), None, 0).dtype == torch.float32


def test_the_seed_decides_what_is_drawn() -> None:
    one, same, other = (
        SentenceTransformerEmbedder(load_whole("random:clip", None, seed)).encode([Item("a cat")]) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same) and np.abs(one - other).max() > 1e-3


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    write_tiny("qwen2_vl", tmp_path / "mute")
    (tmp_path / "mute" / "chat_template.jinja").unlink()
    load("clip").save(str(tmp_path / "saved"), create_model_card=False)
    for model, pooling, problem, remedy in (
        ("random:perceiver", "mean", "perceiver: no known architecture", "siglip2, vision_text, qwen2_vl"),
        ("random:clip", "lasttoken", "random:clip: pools by itself", "instead of lasttoken"),
        ("random:idefics3", None, "random:idefics3: does not pool by itself", "lasttoken, mean or cls"),
        (str(tmp_path / "saved"), "mean", "saved: says itself how it pools", "instead of mean"),
        (str(tmp_path / "mute"), "lasttoken", "mute: has no chat template", "chat_template.jinja"),
        (str(tmp_path), None, "sentence-transformers cannot load it", "Name a model directory"),
        ("somebody/some-model", "mean", "somebody/some-model: no such directory", "HF_HUB_OFFLINE=0"),
    ):
        with pytest.raises(UsageError, match=problem) as raised:
            load_whole(model, pooling, 0)  # type: ignore[arg-type]
        assert remedy in raised.value.remedy

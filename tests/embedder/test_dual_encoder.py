from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from components.corpus import Item
from components.embedder import TorchEmbedder, Vectors
from components.embedder.dual_encoder import DualEncoder, Precision, _has_bfloat16, autocast, load, save


@pytest.fixture(scope="session")
def items(image_files: Sequence[Path]) -> list[Item]:
    """Items of every kind: text, image, both, with and without an instruction."""
    return [
        Item(text="a sad cat"),
        Item(image=image_files[0]),
        Item(text="the happy dog is left of the red tree", image=image_files[1]),
        Item(text="a sad cat", instruction="find the face"),
        Item(image=image_files[2], instruction="find"),
        Item(text="one", image=image_files[3], instruction="find the red one"),
        Item(image=image_files[4].read_bytes()),
        Item(image=Image.open(image_files[4])),
    ]


def test_vectors_are_float32_of_norm_one(embedder: TorchEmbedder, items: list[Item]) -> None:
    vectors = embedder.encode(items)
    assert vectors.shape == (len(items), embedder.dimension) == (8, 12) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors[6], vectors[7])


def test_a_saved_model_gives_the_same_vectors(
    encoder: DualEncoder, directory: Path, tmp_path: Path, items: list[Item]
) -> None:
    inputs = [{"text": item.text, "image": item.image, "instruction": item.instruction} for item in items]
    with torch.inference_mode():
        expected = encoder(encoder.preprocess(inputs))["sentence_embedding"].numpy()
    np.testing.assert_allclose(TorchEmbedder(directory).encode(items), expected, atol=1e-6)
    save(load(directory), tmp_path / "again")
    np.testing.assert_array_equal(
        TorchEmbedder(tmp_path / "again").encode(items), TorchEmbedder(directory).encode(items)
    )

    changed = load(directory)
    with torch.no_grad():
        nn.init.normal_(changed.model.text_projection.weight)
    save(changed, tmp_path / "changed")
    assert not np.allclose(TorchEmbedder(tmp_path / "changed").encode(items)[0], expected[0], atol=1e-3)


def test_an_item_is_the_normalised_weighted_sum_of_its_parts(
    embedder: TorchEmbedder, image_files: Sequence[Path]
) -> None:
    text, image, instruction, whole, uninstructed = embedder.encode(
        [
            Item(text="a red tree"),
            Item(image=image_files[0]),
            Item(text="find the face"),
            Item(text="a red tree", image=image_files[0], instruction="find the face"),
            Item(text="a red tree", image=image_files[0]),
        ]
    )
    np.testing.assert_allclose(whole, unit(text + image + 0.25 * instruction), atol=1e-6)
    np.testing.assert_allclose(uninstructed, unit(text + image), atol=1e-6)
    assert not np.allclose(whole, unit(text + image + instruction), atol=1e-3)


def test_an_item_without_text_and_image_is_refused(embedder: TorchEmbedder) -> None:
    for empty in (Item(), Item(text=""), Item(instruction="find the face")):
        with pytest.raises(ValueError, match="neither text nor image"):
            embedder.encode([Item(text="a cat"), empty])


def test_neither_order_nor_neighbours_nor_batches_change_a_vector(
    embedder: TorchEmbedder, directory: Path, items: list[Item]
) -> None:
    together = embedder.encode(items)
    alone = np.concatenate([embedder.encode([item]) for item in items])
    backwards = embedder.encode(items[::-1])[::-1]
    at_once = TorchEmbedder(directory, batch_size=100).encode(items)
    for others in (alone, backwards, at_once):
        np.testing.assert_allclose(others, together, atol=1e-5)
    assert np.linalg.norm(together[0] - together[3]) > 1e-3


def test_texts_beyond_the_longest_length_are_cut(embedder: TorchEmbedder) -> None:
    cut, longer, short = embedder.encode([Item(text="cat " * count) for count in (20, 30, 10)])
    np.testing.assert_allclose(cut, longer, atol=1e-6)
    assert not np.allclose(cut, short, atol=1e-4)


def test_no_items_are_no_vectors(embedder: TorchEmbedder) -> None:
    assert embedder.encode([]).shape == (0, 12)


def test_image_vectors_carry_gradients_to_the_whole_image_tower(encoder: DualEncoder) -> None:
    tower = encoder.model.vision_model
    encoder.embed_images(torch.rand(2, 3, 16, 16))[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in tower.parameters())
    nn.Module.zero_grad(encoder)


def unit(vector: Vectors) -> Vectors:
    result: Vectors = vector / np.linalg.norm(vector)
    return result


def test_a_model_has_no_weights_that_are_never_used(encoder: DualEncoder, directory: Path) -> None:
    def names(model: DualEncoder) -> set[str]:
        return {name for name, _ in model.named_parameters()}

    assert names(load(directory)) == names(encoder)
    assert not any("pooler" in name for name in names(encoder))


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", None])
def test_auto_is_bfloat16_only_where_the_processor_has_it(
    capability: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx2": True} | ({capability: True} if capability else {})
    )
    _has_bfloat16.cache_clear()
    layer, cpu = nn.Linear(2, 2), torch.device("cpu")
    dtypes: dict[Precision, torch.dtype] = {}
    for precision in get_args(Precision):
        with autocast(precision, cpu):
            dtypes[precision] = layer(torch.ones(1, 2)).dtype
    _has_bfloat16.cache_clear()
    auto = torch.bfloat16 if capability else torch.float32
    assert dtypes == {"auto": auto, "float32": torch.float32, "bfloat16": torch.bfloat16}

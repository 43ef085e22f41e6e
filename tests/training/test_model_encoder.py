from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.backends.tiny import ARCHITECTURES
from components.backends.whole_model import load_whole
from components.corpus import Item
from components.errors import UsageError
from components.training.chunks import in_chunks
from components.training.config import Schedule
from components.training.examples import NONE, Examples
from components.training.model_encoder import ModelEncoder

MakeSchedule = Callable[..., Schedule]
POOLS_ITSELF = ("clip", "siglip", "siglip2", "vision_text")
ONE_OF_EACH_KIND = ("clip", "qwen2_vl", "llava_onevision", "idefics3")
BARE = [(0, NONE, NONE), (1, NONE, NONE), (NONE, 0, NONE), (NONE, 1, NONE), (0, 0, NONE), (1, 1, NONE), (1, 0, NONE)]
ROWS = torch.tensor(BARE + [(text, image, 10) for text, image, _ in BARE])  # text 10 is an instruction


def load(architecture: str) -> SentenceTransformer:
    return load_whole(f"random:{architecture}", None if architecture in POOLS_ITSELF else "lasttoken", 5)


def items(examples: Examples, rows: Tensor) -> list[Item]:
    def part(values: Sequence, position: int) -> object:
        return values[position] if position != NONE else None

    return [
        Item(part(examples.texts, text), part(examples.images, image), instruction=part(examples.texts, instruction))
        for text, image, instruction in rows.tolist()
    ]


def gradients(encoder: ModelEncoder, rows: Tensor, chunk: int = 100) -> dict[str, Tensor]:
    """Returns, by name, the gradients of a loss in which every row's vector meets every other's."""
    encoder.module.zero_grad()
    vectors = in_chunks(encoder, rows, 0, chunk) if chunk < len(rows) else encoder(rows, 0)
    torch.logsumexp(5 * vectors @ vectors.T, 1).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in encoder.module.named_parameters()
        if parameter.grad is not None
    }


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_and_inference_have_the_same_vectors(architecture: str, examples: Examples, tmp_path: Path) -> None:
    encoder = ModelEncoder(load(architecture), examples, "float32")
    encoder.save(tmp_path / "model")
    expected = SentenceTransformerEmbedder(tmp_path / "model").encode(items(examples, ROWS))
    vectors = encoder(ROWS, 0)
    assert vectors.requires_grad and vectors.dtype == torch.float32
    assert vectors.shape == (len(ROWS), encoder.dimension) == expected.shape
    np.testing.assert_allclose(vectors.detach().cpu().numpy(), expected, atol=1e-5)
    assert np.abs(expected[:7] - expected[7:])[[0, 1, 4, 5, 6]].max(1).min() > 1e-3  # the instruction counts


def test_the_prompt_of_the_model_holds_where_there_is_no_instruction(examples: Examples) -> None:
    model = load("clip")
    plain = ModelEncoder(model, examples, "float32")(ROWS, 0)
    model.prompts, model.default_prompt_name = {"any": "a drawing of "}, "any"
    encoder = ModelEncoder(model, examples, "float32")
    prompted = encoder(ROWS, 0)
    np.testing.assert_allclose(
        prompted.detach().cpu().numpy(), encoder.embedder().encode(items(examples, ROWS)), atol=1e-5
    )
    changed = (prompted - plain).abs().amax(1) > 1e-3
    assert changed[[0, 1]].all() and not changed[[2, 3, 7, 8]].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_changes_both_the_image_and_the_text_tower(architecture: str, examples: Examples) -> None:
    encoder = ModelEncoder(load(architecture), examples, "float32")
    before = {name: parameter.detach().clone() for name, parameter in encoder.module.named_parameters()}
    gradients(encoder, ROWS)
    torch.optim.SGD(encoder.module.parameters(), lr=0.01).step()
    changed = {
        name for name, parameter in encoder.module.named_parameters() if not torch.equal(parameter, before[name])
    }
    image = {name for name in before if "vision" in name or "visual" in name}
    for tower in (image, before.keys() - image):
        assert len(changed & tower) > 0.8 * len(tower)


@pytest.mark.parametrize("architecture", ONE_OF_EACH_KIND)
def test_chunks_do_not_change_the_gradient(architecture: str, examples: Examples) -> None:
    encoder = ModelEncoder(load(architecture), examples, "float32")
    whole = gradients(encoder, ROWS)
    assert_equal(gradients(encoder, ROWS, chunk=3), whole)
    with pytest.raises(AssertionError):
        assert_equal(gradients(encoder, ROWS[1:]), whole)


@pytest.mark.parametrize("architecture", ONE_OF_EACH_KIND)
def test_checkpointing_computes_layers_again_and_the_same_gradient(architecture: str, examples: Examples) -> None:
    found, computed = [], []
    for checkpointing in (False, True):
        encoder = ModelEncoder(load(architecture), examples, "float32", checkpointing)
        encoder.module.train()
        layers: list[nn.Module] = []
        for name, layer in encoder.module.named_modules():
            if "norm" in name.rpartition(".")[2]:
                layer.register_forward_hook(lambda layer, *_, layers=layers: layers.append(layer))
        found.append(gradients(encoder, ROWS))
        computed.append(len(layers))
    assert_equal(*found)
    assert computed[1] > computed[0]


@pytest.mark.parametrize("architecture", ["clip", "qwen2_vl"])
def test_what_occurs_twice_is_computed_once(architecture: str, examples: Examples) -> None:
    encoder = ModelEncoder(load(architecture), examples, "float32")
    sizes: list[int] = []
    encoder.module[0].register_forward_pre_hook(
        lambda _, inputs: sizes.append(len(inputs[0].get("input_ids", inputs[0].get("pixel_values"))))
    )
    twice = torch.tensor([(0, 2, NONE), (0, 3, NONE), (0, 2, NONE), (0, NONE, NONE)])
    vectors = encoder(twice, 0)
    # Of two towers: one text and two images. Of a chat: two messages of both, one of text alone.
    assert sorted(sizes) == [1, 2]
    assert torch.equal(vectors[0], vectors[2]) and not torch.allclose(vectors[0], vectors[1], atol=1e-3)


@pytest.mark.parametrize("architecture", ONE_OF_EACH_KIND)
def test_bfloat16_computes_near_float32_and_leaves_the_weights_float32(architecture: str, examples: Examples) -> None:
    model = load(architecture)
    exact = ModelEncoder(model, examples, "float32")(ROWS, 0)
    rough = ModelEncoder(model, examples, "bfloat16")(ROWS, 0)
    assert rough.dtype == torch.float32 and model.dtype == torch.float32
    assert 1e-4 < (rough - exact).abs().max() < 0.05


def test_scoring_in_the_middle_of_training_leaves_it_trainable(examples: Examples) -> None:
    encoder = ModelEncoder(load("qwen2_vl"), examples, "float32")
    encoder.embedder().encode(items(examples, ROWS))
    assert gradients(encoder, ROWS)


def test_no_rows_have_no_vectors(examples: Examples) -> None:
    encoder = ModelEncoder(load("clip"), examples, "float32")
    assert encoder(torch.empty(0, 3, dtype=torch.long), 0).shape == (0, encoder.dimension)


def test_what_a_model_cannot_learn_from_is_refused(
    examples: Examples, make_schedule: MakeSchedule, text_model: Path, tmp_path: Path
) -> None:
    encoder = ModelEncoder(load("clip"), examples, "float32")
    encoder.prepare(make_schedule(augmentation=0.0), tmp_path)
    with pytest.raises(UsageError, match=r"schedule.augmentation.*got 0.5"):
        encoder.prepare(make_schedule(augmentation=0.5), tmp_path)
    words = ModelEncoder(load_whole(str(text_model), "mean", 0), examples, "float32")
    with pytest.raises(UsageError, match="item 2 is of image, and the model takes text"):
        words(ROWS, 0)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(UsageError, match=str(broken)):
        ModelEncoder(encoder.module, Examples([], [broken], {}, {}), "float32")(ROWS[2:3], 0)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, SiglipVisionConfig, SiglipVisionModel

from components.embedder.config import IMAGE_MEAN, IMAGE_STD
from components.embedder.dual_encoder import DualEncoder, assemble, load, save
from components.embedder.runtime import Description
from components.embedder.towers.image.residual import ResidualImageConfig, ResidualImageModel
from components.errors import UsageError
from components.training.adapters import add_adapter, merge_adapter
from components.training.config import Adapter

TEXTS = ["a red cat", "the blue dog", "one happy face", "a sad tree"]
PIXELS = torch.linspace(-1, 1, 4 * 3 * 16 * 16).sin().view(4, 3, 16, 16)
KINDS = ["lora", "dora"]


def adapter(kind: str = "lora", *targets: str, **changes: Any) -> Adapter:
    return Adapter.model_validate(
        {"kind": kind, "rank": 4, "alpha": 8.0, "dropout": 0.0, "targets": list(targets)} | changes
    )


@pytest.fixture
def sentence_transformer(text_model: Path) -> SentenceTransformer:
    transformer = Transformer(str(text_model))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    return SentenceTransformer(modules=[transformer, pooling], device="cpu")


@pytest.fixture
def dual_encoder(text_model: Path) -> DualEncoder:
    torch.manual_seed(0)
    tower = ResidualImageModel(ResidualImageConfig(image_size=16, widths=(8, 16), depths=(1, 1)))
    description = Description(12, 16, IMAGE_MEAN, IMAGE_STD, 16, 0.2, (12,))
    text_tower = AutoModel.from_pretrained(text_model)
    return assemble(text_tower, tower, AutoTokenizer.from_pretrained(text_model), description).eval()


def text_vectors(model: SentenceTransformer) -> Tensor:
    return model(model.preprocess(TEXTS))["sentence_embedding"]


def both_vectors(model: DualEncoder) -> Tensor:
    return torch.cat([model.embed_text(**model.tokens(TEXTS)), model.embed_images(PIXELS)])


def learn(module: nn.Module, vectors: Callable[[Any], Tensor], steps: int = 5) -> Tensor:
    """Trains towards arbitrary vectors; returns those of the trained module."""
    goal = torch.linspace(0, 9, vectors(module).numel()).cos().view_as(vectors(module))
    optimiser = torch.optim.AdamW([one for one in module.parameters() if one.requires_grad], lr=0.05)
    module.train()
    for _ in range(steps):
        optimiser.zero_grad()
        (vectors(module) - goal).square().sum().backward()
        optimiser.step()
    module.eval()
    with torch.no_grad():
        return vectors(module)


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_sentence_transformer_is_read_back_with_the_trained_vectors(
    kind: str, sentence_transformer: SentenceTransformer, tmp_path: Path
) -> None:
    base = text_vectors(sentence_transformer.eval()).detach()
    keys = list(sentence_transformer.state_dict())
    trained = learn(add_adapter(sentence_transformer, adapter(kind), seed=0), text_vectors)
    merge_adapter(sentence_transformer)
    assert list(sentence_transformer.state_dict()) == keys
    sentence_transformer.save(str(tmp_path / "model"), create_model_card=False)
    found = text_vectors(SentenceTransformer(str(tmp_path / "model"), device="cpu").eval())
    torch.testing.assert_close(found, trained, atol=1e-5, rtol=1e-5)
    assert (found - base).abs().max() > 0.1, "the vectors are not those of the base"


@pytest.mark.parametrize("kind", KINDS)
def test_a_merged_dual_encoder_is_read_back_with_the_trained_vectors(
    kind: str, dual_encoder: DualEncoder, tmp_path: Path
) -> None:
    keys, base = list(dual_encoder.state_dict()), both_vectors(dual_encoder).detach()
    targets = ("query", "value", "dense", "visual_projection", "body.0", "body.3", "word_embeddings")
    trained = learn(add_adapter(dual_encoder, adapter(kind, *targets, dropout=0.1), seed=0), both_vectors)
    merge_adapter(dual_encoder)
    assert list(dual_encoder.state_dict()) == keys
    save(dual_encoder, tmp_path / "model")
    found = both_vectors(load(tmp_path / "model"))
    torch.testing.assert_close(found, trained, atol=1e-5, rtol=1e-5)
    assert ((found - base).abs().amax(1) > 0.05).all(), "texts and images alike have moved"


def test_saved_without_merging_the_training_is_lost(dual_encoder: DualEncoder, tmp_path: Path) -> None:
    """Why `merge_adapter` must be called: nobody complains at the load, and the vectors are others."""
    trained = learn(add_adapter(dual_encoder, adapter(), seed=0), both_vectors)
    save(dual_encoder, tmp_path / "model")
    assert not torch.allclose(both_vectors(load(tmp_path / "model")), trained, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing_and_alone_is_trained(kind: str, dual_encoder: DualEncoder) -> None:
    base, weights = both_vectors(dual_encoder), dict(dual_encoder.named_parameters())
    assert add_adapter(dual_encoder, adapter(kind, dropout=0.5), seed=0) is dual_encoder
    assert not any(layer.training for layer in dual_encoder.modules()), "it was made for evaluation, and stays so"
    torch.testing.assert_close(both_vectors(dual_encoder), base)
    trained = {name for name, parameter in dual_encoder.named_parameters() if parameter.requires_grad}
    assert trained and all(".lora_" in name for name in trained)
    assert not any(parameter.requires_grad for parameter in weights.values())
    before = {name: parameter.clone() for name, parameter in weights.items()}
    learn(dual_encoder, both_vectors, steps=1)
    assert all(torch.equal(before[name], parameter) for name, parameter in weights.items())


def test_every_weight_of_an_adapter_learns_even_beside_attention_that_reads_weights_itself() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=16, patch_size=8))
    assert isinstance(model.head.attention, nn.MultiheadAttention)
    add_adapter(model, adapter(), seed=0)
    model(pixel_values=PIXELS).pooler_output.square().sum().backward()
    trained = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 8 and all(gradient is not None for gradient in trained.values())


def test_an_adapter_begins_as_its_seed_says_and_leaves_other_random_numbers_alone(text_model: Path) -> None:
    def begun(seed: int, other: int) -> tuple[Tensor, Tensor]:
        torch.manual_seed(other)
        model = add_adapter(AutoModel.from_pretrained(text_model), adapter(), seed)
        return next(value for name, value in model.named_parameters() if "lora_A" in name), torch.rand(3)

    torch.manual_seed(1)
    AutoModel.from_pretrained(text_model)
    undisturbed = torch.rand(3)
    assert torch.equal(begun(5, 1)[0], begun(5, 2)[0]) and not torch.equal(begun(5, 1)[0], begun(6, 1)[0])
    assert torch.equal(begun(5, 1)[1], undisturbed)


def test_a_checkpoint_of_the_trained_weights_alone_restores_all_bitwise(
    dual_encoder: DualEncoder, text_model: Path, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in dual_encoder.state_dict().items()}
    learn(add_adapter(dual_encoder, adapter("dora", "query", "value", "text_projection"), seed=0), both_vectors)
    names = {name for name, parameter in dual_encoder.named_parameters() if parameter.requires_grad}
    buffers = {name for name, _ in dual_encoder.named_buffers()}
    state = {name: value for name, value in dual_encoder.state_dict().items() if name in names | buffers}
    torch.save(state, tmp_path / "checkpoint.pt")
    again = DualEncoder(
        dual_encoder.model.__class__(dual_encoder.model.config), dual_encoder.tokenizer, dual_encoder.description
    )
    again.load_state_dict(before)
    add_adapter(again, adapter("dora", "query", "value", "text_projection"), seed=9)
    assert not torch.equal(both_vectors(again.eval()), both_vectors(dual_encoder))
    again.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True), strict=False)
    assert all(torch.equal(value, dual_encoder.state_dict()[name]) for name, value in again.state_dict().items())
    assert torch.equal(both_vectors(again), both_vectors(dual_encoder))


def test_a_target_that_is_no_layer_is_named_beside_the_layers_there_are(dual_encoder: DualEncoder) -> None:
    keys = list(dual_encoder.state_dict())
    with pytest.raises(UsageError, match="no layer called q_proj, uery") as raised:
        add_adapter(dual_encoder, adapter("lora", "query", "q_proj", "uery"), seed=0)
    layers = raised.value.remedy.removeprefix("Its layers: ").removesuffix(".").split(", ")
    assert {"query", "key", "value", "dense", "word_embeddings", "body.0", "stem.0", "text_projection"} <= set(layers)
    assert "LayerNorm" not in layers and list(dual_encoder.state_dict()) == keys
    with pytest.raises(UsageError, match="no linear layer"):
        add_adapter(nn.Sequential(nn.ReLU()), adapter(), seed=0)

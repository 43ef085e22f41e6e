import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers import SiglipConfig, SiglipModel

from components.training.losses import Loss, SubBatch, build

MakeBatch = Callable[..., SubBatch]
Value = Callable[[SubBatch], Tensor]
Same = Callable[[SubBatch, Value, Value], bool]


def sigmoid(**settings: float) -> Loss:
    return build("sigmoid", settings, 8, []).double()


def reference(temperature: float, bias: float, negative: float = -1.0) -> Value:
    """Zhai et al., 2023, equation 1, pair by pair."""

    def value(batch: SubBatch) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for row, query in enumerate(batch.queries):
            pairs = [
                (1.0 if column == row else negative, positive)
                for column, positive in enumerate(batch.positives)
                if column == row or not batch.equal[row, column]
            ]
            if batch.negatives is not None:
                pairs += [(negative, vector) for vector in batch.negatives[row]]
            for sign, candidate in pairs:
                total = total + torch.log1p(torch.exp(-sign * (query @ candidate / temperature + bias)))
        return total / len(batch.queries)

    return value


@pytest.mark.parametrize("negatives", [0, 2])
def test_it_is_the_formula_of_the_paper(make_batch: MakeBatch, same: Same, negatives: int) -> None:
    batch = make_batch(negatives=negatives)
    equal = batch.equal.clone()
    equal[1, 4] = equal[4, 1] = True
    batch = replace(batch, equal=equal)
    loss = sigmoid(temperature=0.25, bias=-2.0)  # both exact in float32, in which parameters start
    temperature = loss.logged()["temperature"]
    assert temperature == pytest.approx(0.25)
    assert same(batch, loss, reference(temperature, -2.0))
    assert not same(batch, loss, reference(temperature, -2.0, negative=1.0))
    assert not same(
        batch, lambda batch: loss(replace(batch, equal=torch.eye(6, dtype=torch.bool))), reference(0.25, -2.0)
    )


def test_it_is_the_loss_of_transformers_siglip_and_so_are_the_gradients_of_temperature_and_bias() -> None:
    layer = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text, vision = {**layer, "vocab_size": 20}, {**layer, "image_size": 4, "patch_size": 2}
    torch.manual_seed(0)
    siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).double().eval()
    with torch.no_grad():
        siglip.logit_scale.fill_(1.5)
        siglip.logit_bias.fill_(-2.5)
    peer = siglip(torch.arange(12).reshape(4, 3), torch.randn(4, 3, 4, 4, dtype=torch.float64), return_loss=True)
    ours = sigmoid()
    ours.load_state_dict({"logit_scale": siglip.logit_scale.squeeze(), "bias": siglip.logit_bias.squeeze()})
    vectors = [peer.text_embeds, peer.image_embeds]
    loss = ours(SubBatch(peer.text_embeds, peer.image_embeds, None, torch.eye(4, dtype=torch.bool)))
    expected = torch.autograd.grad(peer.loss, [*vectors, siglip.logit_scale, siglip.logit_bias], retain_graph=True)
    assert torch.allclose(loss, peer.loss)
    for one, other in zip(torch.autograd.grad(loss, [*vectors, *ours.parameters()]), expected, strict=True):
        assert torch.allclose(one, other)
    assert not torch.allclose(
        sigmoid()(SubBatch(peer.text_embeds, peer.image_embeds, None, torch.eye(4, dtype=torch.bool))), peer.loss
    )


def test_it_starts_where_siglip_does() -> None:
    assert sigmoid().logged() == pytest.approx({"temperature": 0.1, "bias": -10.0})


def test_temperature_and_bias_are_learnt(make_batch: MakeBatch) -> None:
    loss, batch = sigmoid(temperature=0.5, bias=-1.0), make_batch(negatives=1)
    names = [name for name, _ in loss.named_parameters()]
    assert names == ["logit_scale", "bias"]

    def value(*parameters: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(loss, dict(zip(names, parameters, strict=True)), batch)
        return result

    assert torch.autograd.gradcheck(value, tuple(loss.parameters()))


def test_a_known_value() -> None:
    vectors = torch.eye(2, dtype=torch.float64)
    batch = SubBatch(vectors, vectors, None, torch.eye(2, dtype=torch.bool))
    expected = math.log(1 + math.exp(-1)) + math.log(2)  # the positive at logit 1, the negative at 0
    assert sigmoid(temperature=1.0, bias=0.0)(batch).item() == pytest.approx(expected)

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from components.embedder.towers.image.residual import ResidualImageConfig, ResidualImageModel
from components.errors import UsageError
from components.training.chunks import in_chunks, require_independent_rows

POSITIONS = torch.arange(22).view(22, 1)
Encode = Callable[[Tensor, int], Tensor]


class Encoder(nn.Module):
    """Texts by number to vectors, deep and wide enough that what it keeps for its gradient counts."""

    def __init__(self, dropout: float, width: int = 8, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [(nn.Linear(width, width), nn.Tanh(), nn.Dropout(dropout)) for _ in range(8)]
        self.layers = nn.Sequential(
            nn.Embedding(len(POSITIONS), width), *(layer for three in layers for layer in three)
        )
        self.to(dtype)

    def forward(self, positions: Tensor, step: int) -> Tensor:
        return functional.normalize(self.layers(positions[:, 0]), dim=-1)


def contrastive(vectors: Tensor) -> Tensor:
    queries, positives = vectors.chunk(2)
    return functional.cross_entropy(20 * queries @ positives.T, torch.arange(len(queries)))


def gradients(module: nn.Module, vectors: Callable[[], Tensor]) -> dict[str, Tensor]:
    module.zero_grad()
    torch.manual_seed(5)
    contrastive(vectors()).backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters() if parameter.grad is not None}


def same(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float = 1e-12) -> bool:
    return bool(first) and all(torch.allclose(first[name], second[name], rtol=0, atol=tolerance) for name in first)


def kept_in_chunks(encode: Encode, size: int) -> Tensor:
    """The same computation with all activations kept."""
    return torch.cat([encode(chunk, 0) for chunk in POSITIONS.split(size)])


@pytest.mark.parametrize("size", [1, 5, 11, 22, 100])
def test_the_gradient_is_that_of_the_whole_batch(size: int) -> None:
    encoder = Encoder(dropout=0.0)
    whole = gradients(encoder, lambda: encoder(POSITIONS, 0))
    assert same(gradients(encoder, lambda: in_chunks(encoder, POSITIONS, 0, size)), whole)
    torch.testing.assert_close(in_chunks(encoder, POSITIONS, 0, size), encoder(POSITIONS, 0), rtol=0, atol=1e-12)
    if size < 11:
        apart = {name: torch.zeros_like(value) for name, value in whole.items()}
        for queries, positives in zip(POSITIONS[:11].split(size), POSITIONS[11:].split(size), strict=True):
            part = torch.cat([queries, positives])
            for name, value in gradients(encoder, lambda: encoder(part, 0)).items():  # noqa: B023
                apart[name] += value * len(queries) / 11
        assert not same(apart, whole), "small batches with few negatives each are something else"


def test_what_dropout_drops_is_the_same_the_second_time() -> None:
    encoder = Encoder(dropout=0.3).train()
    kept = gradients(encoder, lambda: kept_in_chunks(encoder, 5))
    assert same(gradients(encoder, lambda: in_chunks(encoder, POSITIONS, 0, 5)), kept, 0)
    after = torch.rand(1)
    gradients(encoder, lambda: kept_in_chunks(encoder, 5))
    assert torch.equal(torch.rand(1), after), "and the random numbers that follow are the same"

    def forgetful(positions: Tensor, step: int) -> Tensor:
        torch.seed()
        return encoder(positions, step)

    assert not same(gradients(encoder, lambda: in_chunks(forgetful, POSITIONS, 0, 5)), kept, 1e-3)


def test_the_gradient_is_that_of_sentence_transformers_cached_loss(text_model: Any) -> None:
    transformer = Transformer(str(text_model))
    for part in transformer.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    model = SentenceTransformer(modules=[transformer, Pooling(24, "mean")], device="cpu").double().train()
    texts = ["a red cat", "blue dog", "one happy face", "a sad tree", "the tree", "left of the dog", "two cats"] * 2
    texts = [f"{text} {number}" for number, text in enumerate(texts)]
    features = model.preprocess(texts)

    def encode(positions: Tensor, step: int) -> Tensor:
        rows = {name: value[positions[:, 0]] for name, value in features.items() if isinstance(value, Tensor)}
        return functional.normalize(model(rows)["sentence_embedding"], dim=-1)

    ours = gradients(model, lambda: in_chunks(encode, POSITIONS[: len(texts)], 0, 3))
    model.zero_grad()
    sides = [model.preprocess(texts[:7]), model.preprocess(texts[7:])]
    CachedMultipleNegativesRankingLoss(model, scale=20.0, mini_batch_size=3)(sides, None).backward()
    theirs = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert len(ours) > 20 and ours.keys() == theirs.keys() and same(ours, theirs)
    assert not same(ours, {name: 1.01 * value for name, value in theirs.items()})


class Living(TorchDispatchMode):
    """Finds the most bytes that live at once in tensors that come into being."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        self.storages = {key: found for key, found in self.storages.items() if not found[0].expired()}
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                reference = StorageWeakRef(tensor.untyped_storage())
                self.storages[reference.cdata] = reference, tensor.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return result


def peak(vectors: Callable[[], Tensor]) -> int:
    with Living() as living:
        contrastive(vectors()).backward()
    return living.peak


def test_memory_is_that_of_a_chunk() -> None:
    encoder = Encoder(dropout=0.1, width=64, dtype=torch.float32).train()
    positions = POSITIONS[torch.arange(2000) % 22]
    contrastive(encoder(positions[:4], 0)).backward()  # the gradients' own memory is there before
    whole = peak(lambda: encoder(positions, 0)[:200])
    part = peak(lambda: in_chunks(encoder, positions, 0, 100)[:200])
    assert whole > 8 * 2 * 2000 * 64 * 4 and part < whole / 4, "of each layer, its inputs to both functions at least"


def test_rows_that_depend_on_each_other_are_refused() -> None:
    tower = ResidualImageModel(ResidualImageConfig(image_size=16, widths=(4,), depths=(1,)))
    with pytest.raises(UsageError, match="normalises over the whole batch"):
        require_independent_rows(tower.train())
    require_independent_rows(tower.eval())
    require_independent_rows(Encoder(dropout=0.1).train())

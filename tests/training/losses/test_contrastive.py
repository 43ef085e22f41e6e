import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from components.training.losses import Loss, SubBatch, build

NO_LABELS = torch.empty(0)
MakeBatch = Callable[..., SubBatch]
Value = Callable[[SubBatch], Tensor]
Same = Callable[[SubBatch, Value, Value], bool]


def contrastive(**settings: object) -> Loss:
    return build("contrastive", {"temperature": 0.05, **settings}, 8, [])


def ranking(temperature: float = 0.05, **options: object) -> MultipleNegativesRankingLoss:
    model = SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")
    return MultipleNegativesRankingLoss(model, scale=1 / temperature, **options)  # type: ignore[arg-type]


def row_by_row(peer: MultipleNegativesRankingLoss) -> Value:
    """sentence-transformers shows every row the negatives of all; one row at a time, each sees its own alone."""

    def value(batch: SubBatch) -> Tensor:
        rows = []
        for row in range(len(batch.queries)):
            others = [batch.positives[[other]] for other in range(len(batch.queries)) if not batch.equal[row, other]]
            own = [] if batch.negatives is None else list(batch.negatives[row].unsqueeze(1))
            columns = [batch.queries[[row]], batch.positives[[row]], *others, *own]
            rows.append(peer.compute_loss_from_embeddings(columns, NO_LABELS))
        return torch.stack(rows).mean()

    return value


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_from_queries_it_is_the_ranking_loss_of_sentence_transformers(
    make_batch: MakeBatch, same: Same, temperature: float
) -> None:
    ours = contrastive(temperature=temperature, directions="query_to_positive")

    def theirs(batch: SubBatch) -> Tensor:
        return ranking(temperature).compute_loss_from_embeddings([batch.queries, batch.positives], NO_LABELS)

    assert same(make_batch(), ours, theirs)
    assert not same(make_batch(), contrastive(temperature=temperature), theirs)


def test_in_both_directions_it_is_the_symmetric_one(make_batch: MakeBatch, same: Same) -> None:
    peer = ranking(directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction")

    def theirs(batch: SubBatch) -> Tensor:
        return peer.compute_loss_from_embeddings([batch.queries, batch.positives], NO_LABELS)

    assert same(make_batch(), contrastive(), theirs)
    assert not same(make_batch(), contrastive(directions="query_to_positive"), theirs)


def test_hard_negatives_are_seen_by_their_own_row_alone(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=2)
    ours = contrastive(directions="query_to_positive")

    def shared(batch: SubBatch) -> Tensor:
        assert batch.negatives is not None
        return ranking().compute_loss_from_embeddings(
            [batch.queries, batch.positives, *batch.negatives.unbind(1)], NO_LABELS
        )

    assert same(batch, ours, row_by_row(ranking()))
    assert not same(batch, ours, shared)
    assert not same(batch, ours, lambda batch: ours(replace(batch, negatives=None)))


def test_positives_have_no_hard_negatives(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=2)

    def theirs(batch: SubBatch) -> Tensor:
        turned = replace(batch, queries=batch.positives, positives=batch.queries, negatives=None)
        return (row_by_row(ranking())(batch) + row_by_row(ranking())(turned)) / 2

    assert same(batch, contrastive(), theirs)


def test_hardness_is_that_of_sentence_transformers(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=2)
    ours = contrastive(directions="query_to_positive", hardness=9.0)
    theirs = ranking(hardness_mode="all_negatives", hardness_strength=9.0)
    assert same(batch, ours, row_by_row(theirs))
    for mode, strength in (("in_batch_negatives", 9.0), ("all_negatives", 8.0), (None, 0.0)):
        assert not same(batch, ours, row_by_row(ranking(hardness_mode=mode, hardness_strength=strength)))


def test_hardness_lets_no_gradient_through_its_weight(make_batch: MakeBatch, same: Same) -> None:
    def llave(stop: Callable[[Tensor], Tensor]) -> Value:
        def value(batch: SubBatch) -> Tensor:
            total = torch.zeros((), dtype=torch.float64)
            cosines = batch.queries @ batch.positives.T
            for direction in (cosines, cosines.T):
                for row, similarities in enumerate(direction):
                    negatives = [
                        torch.exp(similarity / 0.05 + 9 * stop(similarity))
                        for column, similarity in enumerate(similarities)
                        if column != row
                    ]
                    positive = torch.exp(similarities[row] / 0.05)
                    total = total - torch.log(positive / (positive + torch.stack(negatives).sum()))
            return total / len(cosines) / 2

        return value

    assert same(make_batch(), contrastive(hardness=9.0), llave(lambda similarity: similarity.detach()))
    assert not same(make_batch(), contrastive(hardness=9.0), llave(lambda similarity: similarity))


def test_equal_rows_are_no_negatives_of_each_other(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=1)
    equal = batch.equal.clone()
    equal[0, 2] = equal[2, 0] = True
    batch = replace(batch, equal=equal)
    ours = contrastive(directions="query_to_positive", hardness=3.0)
    peer = row_by_row(ranking(hardness_mode="all_negatives", hardness_strength=3.0))
    assert same(batch, ours, peer)
    assert not same(batch, lambda batch: ours(replace(batch, equal=torch.eye(6, dtype=torch.bool))), peer)


def test_known_values_with_and_without_an_equal_row() -> None:
    vectors = torch.eye(4, dtype=torch.float64)[[0, 1, 0]]
    equal = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    batch = SubBatch(vectors, vectors, None, equal)
    first, second = math.log(1 + math.exp(-1)), math.log(1 + 2 * math.exp(-1))
    assert contrastive(temperature=1.0)(batch).item() == pytest.approx((2 * first + second) / 3)
    punished = math.log(2 + math.exp(-1))
    unmasked = replace(batch, equal=torch.eye(3, dtype=torch.bool))
    assert contrastive(temperature=1.0)(unmasked).item() == pytest.approx((2 * punished + second) / 3)


def test_a_row_without_negatives_has_no_loss_and_no_gradient(make_batch: MakeBatch) -> None:
    batch = make_batch(rows=3)
    all_equal = replace(batch, equal=torch.ones(3, 3, dtype=torch.bool))
    for settings in ({}, {"learnt": True}, {"hardness": 9.0}, {"false_negative_margin": 0.0}):
        loss = contrastive(**settings)(all_equal)
        assert loss.item() == 0
        for gradient in torch.autograd.grad(loss, [batch.queries, batch.positives]):
            assert not gradient.any()
    assert contrastive()(batch).item() > 0
    alone = make_batch(rows=1)
    assert contrastive()(alone).item() == 0


def test_planted_false_negatives_are_left_out(make_batch: MakeBatch, same: Same) -> None:
    batch = make_batch(negatives=2)
    with torch.no_grad():
        assert batch.negatives is not None
        batch.queries[0] = batch.positives[3]  # what row 3 has for its answer answers row 0 better than its own
        batch.negatives[1, 0] = batch.queries[1]  # and row 1 was given an answer for a hard negative
    cosines = (batch.queries @ batch.positives.T).detach()
    own = torch.einsum("nd,nkd->nk", batch.queries, batch.negatives).detach()
    margin = 0.1
    assert cosines[0, 3] > cosines[0, 0] + margin and own[1, 0] > cosines[1, 1] + margin

    def reference(kept: Callable[[float, float], bool]) -> Value:
        def value(batch: SubBatch) -> Tensor:
            assert batch.negatives is not None
            rows = []
            for row, query in enumerate(batch.queries):
                positive = query @ batch.positives[row]
                candidates = [batch.positives[other] for other in range(6) if other != row] + list(batch.negatives[row])
                cosines = [query @ candidate for candidate in candidates]
                negatives = [cosine for cosine in cosines if kept(cosine.item(), positive.item())]
                rows.append(torch.logsumexp(torch.stack([positive, *negatives]) / 0.05, 0) - positive / 0.05)
            return torch.stack(rows).mean()

        return value

    ours = contrastive(directions="query_to_positive", false_negative_margin=margin)
    assert same(batch, ours, reference(lambda cosine, positive: cosine <= positive + margin))
    assert not same(batch, ours, reference(lambda cosine, positive: cosine <= positive))
    assert not same(batch, ours, reference(lambda cosine, positive: True))
    loss = ours(batch)
    (gradient,) = torch.autograd.grad(loss, [batch.negatives])
    assert not gradient[1, 0].any() and gradient.any()
    unfiltered = contrastive(directions="query_to_positive")
    (gradient,) = torch.autograd.grad(unfiltered(batch), [batch.negatives])
    assert gradient[1, 0].any()


def test_prefixes_are_those_of_the_matryoshka_loss(make_batch: MakeBatch, same: Same) -> None:
    ours = contrastive(directions="query_to_positive")
    model = SentenceTransformer(modules=[torch.nn.Identity()], device="cpu")
    model.get_embedding_dimension = lambda: 8  # type: ignore[method-assign]
    peer = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model, scale=20.0), [8, 4, 2], [1.0, 1.0, 1.0])

    def theirs(batch: SubBatch) -> Tensor:
        features = [{"sentence_embedding": batch.queries}, {"sentence_embedding": batch.positives}]
        value: Tensor = peer(features, NO_LABELS)
        return value

    def of_prefixes(batch: SubBatch) -> Tensor:
        return torch.stack([ours(batch.prefix(dimension)) for dimension in (8, 4, 2)]).sum()

    def not_normalised(batch: SubBatch) -> Tensor:
        cut = [
            replace(batch, queries=batch.queries[:, :size], positives=batch.positives[:, :size]) for size in (8, 4, 2)
        ]
        return torch.stack([ours(prefix) for prefix in cut]).sum()

    assert same(make_batch(), of_prefixes, theirs)
    assert not same(make_batch(), not_normalised, theirs)


def test_a_learnt_temperature_starts_where_set_and_has_a_gradient(make_batch: MakeBatch) -> None:
    batch = make_batch()
    loss = contrastive(learnt=True).double()
    assert loss(batch).item() == pytest.approx(contrastive()(batch).item(), abs=1e-5)
    assert loss.logged() == pytest.approx({"temperature": 0.05})
    assert contrastive().logged() == {} and not list(contrastive().parameters())
    (scale,) = loss.parameters()
    assert torch.autograd.gradcheck(
        lambda scale: torch.func.functional_call(loss, {"logit_scale": scale}, batch), scale
    )


def test_it_is_the_loss_of_transformers_clip_and_so_is_the_gradient_of_its_temperature() -> None:
    layer = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    text, vision = {**layer, "vocab_size": 20}, {**layer, "image_size": 4, "patch_size": 2}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).double().eval()
    peer = clip(torch.arange(12).reshape(4, 3), torch.randn(4, 3, 4, 4, dtype=torch.float64), return_loss=True)
    ours = contrastive(temperature=0.07, learnt=True).double()
    ours.load_state_dict({"logit_scale": clip.logit_scale})
    loss = ours(SubBatch(peer.text_embeds, peer.image_embeds, None, torch.eye(4, dtype=torch.bool)))
    vectors = [peer.text_embeds, peer.image_embeds]
    expected = torch.autograd.grad(peer.loss, [*vectors, clip.logit_scale], retain_graph=True)
    assert torch.allclose(loss, peer.loss)
    for one, other in zip(torch.autograd.grad(loss, [*vectors, *ours.parameters()]), expected, strict=True):
        assert torch.allclose(one, other)
    assert expected[-1].abs() > 1e-6


def test_a_learnt_temperature_stops_at_a_hundredth_and_comes_back(make_batch: MakeBatch) -> None:
    loss = contrastive(learnt=True)
    (scale,) = loss.parameters()
    with torch.no_grad():
        scale.fill_(9.0)
    batch = make_batch()
    (loss(batch) + loss(batch.prefix(4))).backward()
    assert loss.logged()["temperature"] == pytest.approx(0.01)
    assert scale.grad is not None and scale.grad > 0  # this batch is hard, and a lower scale would be better
    assert loss(batch).item() == pytest.approx(contrastive(temperature=0.01)(batch).item(), rel=1e-5)
    with pytest.raises(ValueError, match=r"a learnt temperature must be at least 0.01, got 0.005"):
        contrastive(learnt=True, temperature=0.005)

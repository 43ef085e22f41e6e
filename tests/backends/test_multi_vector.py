from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.util import maxsim as library_maxsim

from components.backends import multi_vector
from components.backends.multi_vector import MultiVectorEmbedder, maxsim
from components.corpus import Item
from components.embedder import Vectors
from components.errors import EmbedlineError, UsageError

TEXTS = ["a sad cat", "the happy dog is left of the red tree", "one", "a blue face"]


@pytest.fixture(scope="session")
def tokens(multi_vector_model: Path) -> MultiVectorEmbedder:
    return MultiVectorEmbedder(multi_vector_model, batch_size=3)


def ragged(lengths: Sequence[int], seed: int, dimension: int = 8) -> list[Vectors]:
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(length, dimension)).astype(np.float32) for length in lengths]


def test_an_item_has_the_vectors_of_the_library_for_its_side(
    tokens: MultiVectorEmbedder, multi_vector_model: Path
) -> None:
    model = MultiVectorEncoder(str(multi_vector_model), device="cpu")
    items = [Item(text) for text in TEXTS]
    queries, documents = tokens.encode(items, "query"), tokens.encode(items)
    for found, expected in (
        (queries, model.encode_query(TEXTS, convert_to_numpy=True)),
        (documents, model.encode_document(TEXTS, convert_to_numpy=True)),
    ):
        assert [len(vectors) for vectors in found] == [len(vectors) for vectors in expected]
        for vectors, others in zip(found, expected, strict=True):
            assert vectors.dtype == np.float32 and vectors.shape[1] == tokens.dimension == 128
            np.testing.assert_allclose(vectors, others, atol=1e-5)
    assert np.abs(queries[0][1] - documents[0][1]).max() > 1e-3
    assert tokens.encode([]) == []


def test_an_instruction_stands_between_the_mark_of_the_side_and_the_text(
    tokens: MultiVectorEmbedder, multi_vector_model: Path
) -> None:
    model = MultiVectorEncoder(str(multi_vector_model), device="cpu")
    (found,) = tokens.encode([Item("cat", instruction="one red")], "query")
    expected = model.encode(["find one red cat"], prompt="", task="query", convert_to_numpy=True)
    np.testing.assert_allclose(found, expected[0], atol=1e-5)


def test_what_the_model_does_not_take_is_refused(tokens: MultiVectorEmbedder, image_files: list[Path]) -> None:
    with pytest.raises(UsageError, match="item 1 is of image, and tokens takes text"):
        tokens.encode([Item("a cat"), Item(image=image_files[0])])


def test_maxsim_is_the_sum_of_each_query_vectors_highest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, documents = ragged([3, 1, 5], 1), ragged([4, 1, 9, 2, 7, 30, 1], 2)
    by_hand = [[sum(max(q @ d for d in document) for q in query) for document in documents] for query in queries]
    scores = maxsim(queries, documents)
    assert scores.shape == (3, 7) and scores.dtype == np.float64
    np.testing.assert_allclose(scores, by_hand, rtol=1e-5)
    np.testing.assert_allclose(scores, library_maxsim(queries, documents).numpy(), rtol=1e-5)
    for tokens_at_once in (1, 5, 10, 54):
        monkeypatch.setattr(multi_vector, "TOKENS_AT_ONCE", tokens_at_once)
        np.testing.assert_allclose(maxsim(queries, documents), scores, rtol=1e-13)
    means = np.stack([query.sum(0) for query in queries]) @ np.stack([document.mean(0) for document in documents]).T
    assert not np.allclose(scores, means, atol=0.1)


def test_a_score_does_not_depend_on_the_documents_around_it() -> None:
    """Padding with zeros would lift the negative score of a short document beside a long one to 0."""
    (query,), documents = ragged([4], 3), ragged([1, 40, 3], 4)
    documents[0] = -np.abs(documents[0])
    query = np.abs(query)
    alone = [maxsim([query], [document])[0, 0] for document in documents]
    assert alone[0] < 0
    np.testing.assert_allclose(maxsim([query], documents)[0], alone, rtol=1e-13)
    np.testing.assert_allclose(maxsim([query], documents[::-1])[0], alone[::-1], rtol=1e-13)


def test_no_documents_are_no_scores() -> None:
    assert maxsim(ragged([3, 2], 1), []).shape == (2, 0)


def test_items_without_tokens_and_scores_that_are_no_numbers_are_refused() -> None:
    queries, documents = ragged([3, 2], 1), ragged([2, 2, 2], 2)
    with pytest.raises(EmbedlineError, match="document 1 has no tokens"):
        maxsim(queries, [documents[0], documents[1][:0], documents[2]])
    with pytest.raises(EmbedlineError, match="query 0 has no tokens"):
        maxsim([queries[0][:0]], documents)
    documents[2][1, 0] = np.nan
    with pytest.raises(EmbedlineError, match="query 0 and document 2: the score is not finite"):
        maxsim(queries, documents)

import string
from pathlib import Path

import pytest

import components  # noqa: F401  (first: it sets the switches that other tools read at import)

WORDS = ("cat", "dog", "red", "blue", "sad", "happy", "face", "tree", "one", "two", "left", "of", "the", "a", "find")


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights and a small vocabulary of its own, as transformers saves it."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("text_model")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary += [prefix + letter for letter in string.ascii_lowercase + string.digits for prefix in ("", "##")]
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.3,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(directory)
    BertTokenizer(vocab={token: number for number, token in enumerate(vocabulary)}).save_pretrained(directory)
    return directory

from pathlib import Path

import pytest
import torch
from sentence_transformers import MultiVectorEncoder, SentenceTransformer

from components.backends.whole_model import load_whole


@pytest.fixture(scope="session")
def sentence_model(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT with mean pooling, as sentence-transformers saves it."""
    directory = tmp_path_factory.mktemp("models") / "sentences"
    SentenceTransformer(str(text_model), device="cpu").save(str(directory), create_model_card=False)
    return directory


@pytest.fixture(scope="session")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, which takes texts and images, each alone, as sentence-transformers saves it."""
    directory = tmp_path_factory.mktemp("models") / "two-towers"
    load_whole("random:clip", None, 3).save(str(directory), create_model_card=False)
    return directory


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Idefics3 with random weights, which takes chats of texts and images, as sentence-transformers saves it."""
    directory = tmp_path_factory.mktemp("models") / "chat"
    load_whole("random:idefics3", "lasttoken", 4).save(str(directory), create_model_card=False)
    return directory


@pytest.fixture(scope="session")
def multi_vector_model(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT with a projection of each token, and a prompt for each side, as sentence-transformers saves it."""
    directory = tmp_path_factory.mktemp("models") / "tokens"
    torch.manual_seed(5)
    model = MultiVectorEncoder(str(text_model), device="cpu", prompts={"query": "find ", "document": "the "})
    model.save(str(directory), create_model_card=False)
    return directory

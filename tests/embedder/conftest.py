from pathlib import Path

import pytest
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from components.embedder import TorchEmbedder
from components.embedder.dual_encoder import IMAGE_MEAN, IMAGE_STD, DualEncoder, assemble, save
from components.embedder.runtime import Description
from components.embedder.towers import ResidualImageConfig, ResidualImageModel
from components.embedder.whole_model import load_whole


@pytest.fixture(scope="session")
def encoder(text_model: Path) -> DualEncoder:
    """A dual encoder of two tiny towers with random weights."""
    description = Description(
        dimension=12,
        image_size=16,
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
        max_tokens=16,
        instruction_weight=0.25,
        matryoshka_dimensions=(12, 6),
    )
    torch.manual_seed(2)
    image_tower = ResidualImageModel(ResidualImageConfig(image_size=16, widths=(8, 16), depths=(1, 1)))
    text_tower = AutoModel.from_pretrained(text_model, add_pooling_layer=False)
    return assemble(text_tower, image_tower, AutoTokenizer.from_pretrained(text_model), description).eval()


@pytest.fixture(scope="session")
def directory(encoder: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder as a sentence-transformers model directory."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    save(encoder, directory)
    return directory


@pytest.fixture(scope="session")
def embedder(directory: Path) -> TorchEmbedder:
    return TorchEmbedder(directory, batch_size=3)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five pictures of different colours and shapes."""
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for number, size in enumerate([(16, 16), (9, 20), (30, 12), (16, 8), (40, 40)]):
        picture = Image.linear_gradient("L").resize(size).rotate(90 * number, expand=True).convert("RGB")
        picture.paste((40 * number, 255 - 50 * number, 90), (0, 0, 3 + number, 4))
        files.append(folder / f"{number}.png")
        picture.save(files[-1])
    return files


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

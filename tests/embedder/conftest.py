from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaModel,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from components.embedder import TorchEmbedder
from components.embedder.dual_encoder import IMAGE_MEAN, IMAGE_STD, DualEncoder, assemble, save
from components.embedder.runtime import Description
from components.embedder.towers import ResidualImageConfig, ResidualImageModel


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
def clip_model(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with random weights, which takes texts and images, each alone, as sentence-transformers saves it."""
    tokenizer = AutoTokenizer.from_pretrained(text_model)
    tower = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={"vocab_size": len(tokenizer), "max_position_embeddings": 40, **tower, **tokens},
        vision_config={"image_size": 16, "patch_size": 8, **tower},
        projection_dim=12,
        initializer_factor=20.0,
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    directory, saved = (tmp_path_factory.mktemp("models") / name for name in ("clip", "two-towers"))
    torch.manual_seed(3)
    CLIPModel(config).save_pretrained(directory)
    CLIPProcessor(pictures, tokenizer).save_pretrained(directory)
    SentenceTransformer(str(directory), device="cpu").save(str(saved), create_model_card=False)
    return saved


@pytest.fixture(scope="session")
def chat_model(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA with random weights, which takes chats of texts and images, as sentence-transformers saves it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(text_model / "tokenizer.json"), pad_token="[PAD]", eos_token="[SEP]", padding_side="left"
    )
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"height": 16, "width": 16}, do_center_crop=False),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=(
            "{% for message in messages %}{{ message.role }} {% for part in message.content %}"
            "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %} {% endfor %}[SEP]{% endfor %}"
        ),
    )
    layers: dict[str, Any] = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(image_size=16, patch_size=8, **layers),
        text_config=LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **layers),
        image_token_index=tokenizer.get_vocab()["<image>"],
    )
    directory, saved = (tmp_path_factory.mktemp("models") / name for name in ("llava", "chat"))
    torch.manual_seed(4)
    LlavaModel(config).save_pretrained(directory)
    processor.save_pretrained(directory)
    modules = [Transformer(str(directory)), Pooling(24, "lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save(str(saved), create_model_card=False)
    return saved


@pytest.fixture(scope="session")
def multi_vector_model(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT with a projection of each token, and a prompt for each side, as sentence-transformers saves it."""
    directory = tmp_path_factory.mktemp("models") / "tokens"
    torch.manual_seed(5)
    model = MultiVectorEncoder(str(text_model), device="cpu", prompts={"query": "find ", "document": "the "})
    model.save(str(directory), create_model_card=False)
    return directory

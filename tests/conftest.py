import os
import shutil
import string
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from components.quiet import configure
from monitoring.doctor import SYSTEM_FILES

if TYPE_CHECKING:
    from components.embedder import TorchEmbedder
    from components.embedder.dual_encoder import DualEncoder

configure()
os.environ.setdefault("OMP_NUM_THREADS", "1")  # `make test` has a worker for each core, and the models are tiny

ROOT = Path(__file__).parents[1]
SYSTEM_PACKAGES = {name: file.exists() for file, name in SYSTEM_FILES.items()} | {"git": bool(shutil.which("git"))}
WORDS = ("cat", "dog", "red", "blue", "sad", "happy", "face", "tree", "one", "two", "left", "of", "the", "a", "find")

OTHER_PACKAGES = {
    "postgresql": any(Path("/usr/lib/postgresql").glob("*/bin/initdb")),
    "prometheus": bool(shutil.which("prometheus") and shutil.which("promtool")),
}
"""What single tests need and nothing else of the project does."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips a test whose marker `system` names a Debian package that is missing here."""
    for marker in item.iter_markers("system"):
        there = SYSTEM_PACKAGES | OTHER_PACKAGES
        if missing := [name for name in marker.args or SYSTEM_PACKAGES if not there[name]]:
            pytest.skip(f"needs the Debian packages {', '.join(missing)}; `make system` installs them, or apt-get")


@pytest.fixture
def source_copy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's source and `dvc.yaml`, from which code digests are computed instead of the real ones."""
    from components import source

    copy = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "components", copy / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "dvc.yaml", copy / "dvc.yaml")
    monkeypatch.setattr(source, "ROOT", copy)
    return copy


def edit(file: Path) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.write("\nEDITED = True\n")


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


@pytest.fixture(scope="session")
def encoder(text_model: Path) -> "DualEncoder":
    """A dual encoder of two tiny towers with random weights."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from components.embedder.config import IMAGE_MEAN, IMAGE_STD
    from components.embedder.dual_encoder import assemble
    from components.embedder.runtime import Description
    from components.embedder.towers.image.residual import ResidualImageConfig, ResidualImageModel

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
def directory(encoder: "DualEncoder", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder as a sentence-transformers model directory."""
    from components.embedder.dual_encoder import save

    directory = tmp_path_factory.mktemp("models") / "tiny"
    save(encoder, directory)
    return directory


@pytest.fixture(scope="session")
def embedder(directory: Path) -> "TorchEmbedder":
    from components.embedder import TorchEmbedder

    return TorchEmbedder(directory, batch_size=3)


@pytest.fixture(scope="session")
def image_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five images of different colours and shapes."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    files = []
    for number, size in enumerate([(16, 16), (9, 20), (30, 12), (16, 8), (40, 40)]):
        image = Image.linear_gradient("L").resize(size).rotate(90 * number, expand=True).convert("RGB")
        image.paste((40 * number, 255 - 50 * number, 90), (0, 0, 3 + number, 4))
        files.append(folder / f"{number}.png")
        image.save(files[-1])
    return files

"""A tiny dual encoder with random weights, its data set, and what the two stages make of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from components.corpus import EVAL_SCHEMA, TRAIN_SCHEMA, EvaluationTask, Manifest, Tasks
from components.corpus.layout import write_rows
from components.corpus.manifest import data_digest
from components.embedder.dual_encoder import DualEncoder, assemble, save
from components.embedder.runtime import Description
from components.embedder.towers.image.residual import ResidualImageConfig, ResidualImageModel
from components.embedder.towers.text.word_vectors import WordVectorsConfig, WordVectorsModel
from components.export import package
from components.export.config import Export, Serving
from components.export.export import export
from components.export.variants import fp32, int8

WORDS = ["[PAD]", "[UNK]", *(f"word{number}" for number in range(198))]
MAX_TOKENS = 12
SIZES = ((32, 32), (50, 20), (9, 41), (64, 64))
FP32 = fp32.Settings(name="fp32", parity_cosine=0.9999)
INT8 = int8.Settings(name="int8", parity_cosine=0.97, calibration_images=256)
EXPORT = Export(opset=20, variants=[FP32, INT8], parity_items=12)
SERVING = Serving(
    variant="int8", http_port=0, grpc_port=0, metrics_port=0, threads=1, max_batch_size=32, startup_seconds=60
)


def make_encoder(seed: int) -> DualEncoder:
    """Returns an encoder whose weights are large enough for a wrong export to show."""
    torch.manual_seed(seed)
    texts = WordVectorsModel(WordVectorsConfig(vocab_size=len(WORDS), hidden_size=32))
    images = ResidualImageModel(ResidualImageConfig(image_size=32, widths=(16, 32), depths=(1, 1)))
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    description = Description(24, 32, (0.5,) * 3, (0.4, 0.5, 0.6), MAX_TOKENS, 0.5, (24,))
    encoder = assemble(texts, images, fast, description)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.weight.mul_(2)
            if isinstance(module, torch.nn.BatchNorm2d):
                module.get_buffer("running_mean").normal_(0, 0.3)
                module.get_buffer("running_var").uniform_(0.5, 1.5)
    return encoder.eval()


def make_data(data: Path) -> Path:
    """Returns a data set of noise: images of unequal sizes, texts of unequal lengths."""
    chance, noise = random.Random(0), np.random.default_rng(0)
    names = [f"{number}.png" for number in range(40)]
    (data / "images").mkdir(parents=True)
    for number, name in enumerate(names):
        width, height = SIZES[number % len(SIZES)]
        coarse = Image.fromarray(noise.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((width, height)).save(data / "images" / name)
    texts = [" ".join(chance.choices(WORDS[2:], k=chance.randint(1, 20))) for _ in names]
    empty = {"neg_text": "", "neg_image_path": "", "pos_inst": "", "pos_image_path": ""}
    write_rows(
        data / "train" / "Name.parquet",
        TRAIN_SCHEMA,
        (
            {**empty, "qry_inst": "word7 word8", "qry": text * (number % 2), "qry_image_path": name, "pos_text": text}
            for number, (name, text) in enumerate(zip(names, texts, strict=True))
        ),
    )
    write_rows(
        data / "dev" / "Name.parquet",
        EVAL_SCHEMA,
        (
            {
                "qry_inst": "",
                "qry_text": text,
                "qry_img_path": "",
                "tgt_inst": "",
                "tgt_text": [""] * 10,
                "tgt_img_path": names[:10],
                "label": [number],
            }
            for number, text in enumerate(texts[:10])
        ),
    )
    task = EvaluationTask(rows=10, candidates=10, meta_task="retrieval", distribution="IND")
    Manifest(
        name="noise",
        source="table",
        licence=[],
        inputs={},
        corpus={},
        seed=0,
        tasks=Tasks(train={"Name": 40}, dev={"Name": task}),
        images=40,
        quarantined=0,
        digest=data_digest(data),
    ).write(data)
    return data


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("corpus") / "data")


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "student"
    save(make_encoder(seed=1), folder)
    return folder


@pytest.fixture(scope="session")
def onnx(student: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage `export` makes."""
    output = tmp_path_factory.mktemp("artifacts") / "onnx"
    export(EXPORT, student, data, output)
    return output


@pytest.fixture
def packaged(onnx: Path, data: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a bundle under a name."""

    def make(name: str) -> Path:
        package(SERVING, onnx, data, tmp_path / name, "# A model card")
        return tmp_path / name

    return make

"""A real Triton server on free ports, serving two bundles made of tiny random dual encoders as versions 1 and 2."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from components.embedder import runtime
from components.embedder.runtime import Runtime
from serving import TritonServer, deploy, serve
from serving.environment import Environment, prepare
from serving.repository import served

TRITON_MODEL = Path(__file__).parents[2] / "components" / "export" / "triton_model.py"
WORDS = ["[PAD]", "[UNK]", "a", "sad", "happy", "cat", "dog", "red", "find", "the", "image"]
IMAGE_SIZE = 16
CONFIG = """name: "embedder"
backend: "python"
max_batch_size: 64
dynamic_batching {{ }}
input [
  {{ name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "INSTRUCTION" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "DIMENSION" data_type: TYPE_INT32 dims: [ 1 ] optional: true }}
]
output [ {{ name: "EMBEDDING" data_type: TYPE_FP32 dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
parameters {{ key: "threads" value {{ string_value: "2" }} }}
"""


class TextTower(torch.nn.Module):
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(len(WORDS), dimension)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        weights = attention_mask.unsqueeze(-1).float()
        mean = (self.embedding(input_ids) * weights).sum(1) / weights.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1)


class ImageTower(torch.nn.Module):
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 4, stride=4)
        self.head = torch.nn.Linear(8 * (IMAGE_SIZE // 4) ** 2, dimension)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.convolution(pixel_values)).flatten(1)
        return torch.nn.functional.normalize(self.head(features), dim=-1)


def make_bundle(folder: Path, seed: int, dimension: int = 32) -> Path:
    """Returns the folder, filled with a whole bundle whose weights come from the seed."""
    torch.manual_seed(seed)
    version = folder / "version"
    version.mkdir(parents=True)
    export(
        TextTower(dimension),
        version / "text.onnx",
        sentence_embedding={
            "input_ids": torch.ones(2, 3, dtype=torch.int64),
            "attention_mask": torch.ones(2, 3, dtype=torch.int64),
        },
    )
    export(
        ImageTower(dimension),
        version / "image.onnx",
        image_embedding={"pixel_values": torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE)},
    )
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(version / "tokenizer.json"))
    description = {
        "dimension": dimension,
        "image_size": IMAGE_SIZE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "max_tokens": 16,
        "instruction_weight": 1.0,
        "matryoshka_dimensions": [dimension, dimension // 2],
    }
    (version / "embedder.json").write_text(json.dumps(description))
    shutil.copy(str(runtime.__file__), version / "runtime.py")
    shutil.copy(TRITON_MODEL, version / "model.py")
    texts, instructions = ["a sad cat", "red dog"], [None, "find the image"]
    examples = [
        {"text": text, "image": None, "instruction": instruction}
        for text, instruction in zip(texts, instructions, strict=True)
    ]
    np.save(folder / "examples.npy", Runtime(version, threads=1).encode(texts, [None, None], instructions))
    (folder / "bundle.json").write_text(
        json.dumps(
            {
                "model_name": "embedder",
                "dimension": dimension,
                "model_fingerprint": "",
                "variant": "fp32",
                "fingerprint": f"{seed:064x}",
                "dataset_digest": "0" * 64,
                "examples": examples,
                "expected": "examples.npy",
            }
        )
    )
    (folder / "config.pbtxt").write_text(CONFIG.format())
    return folder


def export(tower: torch.nn.Module, path: Path, **output_and_inputs: dict[str, torch.Tensor]) -> None:
    ((output, inputs),) = output_and_inputs.items()
    axes = {name: [0, 1] if value.ndim == 2 else [0] for name, value in inputs.items()}
    torch.onnx.export(
        tower.eval(),
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=[output],
        dynamic_shapes={name: dict.fromkeys(axes[name], torch.export.Dim.DYNAMIC) for name in inputs},
        opset_version=20,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


@pytest.fixture(scope="session")
def environment() -> Environment:
    return prepare()


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bundles that differ in their weights."""
    folder = tmp_path_factory.mktemp("bundles")
    return make_bundle(folder / "one", seed=1), make_bundle(folder / "two", seed=2)


@pytest.fixture
def copied_bundle(bundles: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the first bundle, to be spoilt."""
    return Path(shutil.copytree(bundles[0], tmp_path / "copied"))


@pytest.fixture(scope="session")
def session_server(
    environment: Environment, bundles: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    with TritonServer.start(tmp_path_factory.mktemp("workspace"), 0, 0, 0) as server:
        deploy(server, bundles[0], 1)
        deploy(server, bundles[1], 2)
        yield server


@pytest.fixture
def server(session_server: TritonServer) -> Iterator[TritonServer]:
    """The server, serving the versions 1 and 2 before and after each test."""
    yield session_server
    if served(session_server.repository) != [1, 2]:
        serve(session_server, [1, 2])


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose vectors are shorter than those of the others."""
    return make_bundle(tmp_path_factory.mktemp("small") / "bundle", seed=3, dimension=16)


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """Makes the bytes of a PNG file of one colour."""

    def encoded(colour: str, size: tuple[int, int] = (20, 12)) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", size, colour).save(buffer, "PNG")
        return buffer.getvalue()

    return encoded

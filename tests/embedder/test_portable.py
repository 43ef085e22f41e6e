"""A model directory loads in a process that has sentence-transformers and nothing of this project."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.backends.whole_model import load_whole
from components.corpus import Item
from components.embedder import TorchEmbedder, fingerprint
from components.embedder.dual_encoder import MODULE_FILE, DualEncoder, assemble, load, save
from components.embedder.model_card import CARD, Origin, model_card
from components.embedder.towers.image.residual import ResidualImageConfig, ResidualImageModel
from components.embedder.towers.text.word_vectors import WordVectorsConfig, WordVectorsModel, vocabulary_size
from components.errors import UsageError

STRANGER = """
import importlib.util, json, sys
from pathlib import Path

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("components", "cli", "flows", "serving", "monitoring"):
            raise ModuleNotFoundError(f"{name} is this project's")

sys.meta_path.insert(0, Refusing())
try:
    import components
except ModuleNotFoundError as error:
    assert "this project's" in str(error)

import numpy as np
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

def read(part):
    if isinstance(part, dict) and "image" in part:
        part["image"] = Image.open(part["image"])
    return part["image"] if isinstance(part, dict) and len(part) == 1 else part

torch.set_num_threads(1)
answers = {}
for name, job in json.loads(Path("jobs.json").read_text()).items():
    if job["card"]:
        names = {}
        exec(Path(name, "README.md").read_text().split("```python\\n")[1].split("```")[0], names)
        answers |= {f"{name} {part}": names[part] for part in ("texts", "images", "instructed") if part in names}
    try:
        model = SentenceTransformer(name, device="cpu", trust_remote_code=job["trusted"])
    except ValueError as error:
        answers[name] = np.array(str(error))
        continue
    for number, (inputs, options) in enumerate(job["batches"]):
        answers[f"{name} {number}"] = model.encode([read(part) for part in inputs], **options)
np.savez("answers.npz", **answers)
"""
Answers = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def batches(image_files: Sequence[Path]) -> list[tuple[list[Item], dict[str, Any]]]:
    """Items of every kind, and what `encode` gets beside them."""
    texts = ["a sad cat", "the happy dog is left of the red tree", "one"]
    return [
        ([Item(text) for text in texts], {}),
        ([Item(image=image) for image in image_files], {}),
        ([Item(text, image) for text, image in zip(texts, image_files, strict=False)], {}),
        ([Item(text, instruction="find the face") for text in texts], {"prompt": "find the face"}),
        ([Item(image=image, instruction="find the face") for image in image_files], {"prompt": "find the face"}),
        ([Item(text, image, instruction="find") for text, image in zip(texts, image_files, strict=False)], {}),
    ]


@pytest.fixture(scope="module")
def answers(
    home: Path, encoder: DualEncoder, batches: list[tuple[list[Item], dict[str, Any]]], image_files: Sequence[Path]
) -> Answers:
    """What a stranger gets of each directory: vectors by name and batch, or the message that refuses."""
    write_models(home, encoder)
    shutil.copyfile(image_files[0], home / "image.png")
    every = [([inputs(item, options) for item in items], options) for items, options in batches]
    jobs = {
        "bert": {"trusted": True, "card": True, "batches": every},
        "somebody/bert": {"trusted": True, "card": False, "batches": every},
        "words": {"trusted": True, "card": False, "batches": every},
        "changed": {"trusted": True, "card": False, "batches": every},
        "untrusted": {"trusted": False, "card": False, "batches": every},
        "clip": {"trusted": False, "card": True, "batches": every[:2]},
    }
    (home / "jobs.json").write_text(json.dumps(jobs))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER],
        capture_output=True,
        text=True,
        env=environment | {"HF_HOME": str(home / "cache")},
        cwd=home,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    with np.load(home / "answers.npz") as file:
        return dict(file)


def write_models(home: Path, encoder: DualEncoder) -> None:
    origin = Origin("emoji", ("free",), ("en", "de"), ("somebody/some-model",))
    save(encoder, home / "bert")
    (home / "bert" / CARD).write_text(model_card(home / "bert", "bert", 12, [12, 6], origin))
    shutil.copytree(home / "bert", home / "untrusted")
    fetched = home / "cache" / "hub" / "models--somebody--bert"
    shutil.copytree(home / "bert", fetched / "snapshots" / ("0" * 40))
    (fetched / "refs").mkdir()
    (fetched / "refs" / "main").write_text("0" * 40)

    torch.manual_seed(3)
    words = WordVectorsModel(WordVectorsConfig(vocabulary_size(encoder.tokenizer), 10))
    image = ResidualImageModel(ResidualImageConfig(image_size=16, widths=(8, 12), depths=(1, 2)))
    colours = replace(encoder.description, image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6))
    student = assemble(words, image, encoder.tokenizer, colours).eval()
    save(student, home / "words")
    with torch.no_grad():
        student.model.text_projection.weight[0, 0] += 0.01
        student.model.visual_projection.weight[0, 0] += 0.01
    save(student, home / "changed")

    clip = load_whole("random:clip", None, 3)
    clip.save(str(home / "clip"), create_model_card=False)
    card = model_card(home / "clip", "clip", clip.get_embedding_dimension() or 0, [], origin)
    (home / "clip" / CARD).write_text(card)


def inputs(item: Item, options: dict[str, Any]) -> object:
    """Returns an item as JSON of what `encode` takes."""
    parts = {"text": item.text, "image": item.image and str(item.image), "instruction": item.instruction}
    known = {name: part for name, part in parts.items() if part and not (name == "instruction" and options)}
    return item.text if known.keys() == {"text"} else known


def agree(answers: Answers, name: str, model: Path, batches: list[tuple[list[Item], dict[str, Any]]]) -> list[bool]:
    """Returns, for each batch, whether a stranger got the vectors of this project to 1e-6."""
    ours = TorchEmbedder(model)
    return [
        bool(np.abs(answers[f"{name} {number}"] - ours.encode(items)).max() < 1e-6)
        for number, (items, _) in enumerate(batches)
    ]


@pytest.mark.parametrize("name", ["bert", "words"])
def test_a_stranger_gets_the_vectors_of_this_project(
    name: str, answers: Answers, home: Path, batches: list[tuple[list[Item], dict[str, Any]]]
) -> None:
    assert agree(answers, name, home / name, batches) == [True] * len(batches)


def test_a_model_of_the_hub_is_loaded_as_one_of_a_directory(
    answers: Answers, home: Path, batches: list[tuple[list[Item], dict[str, Any]]]
) -> None:
    assert agree(answers, "somebody/bert", home / "bert", batches) == [True] * len(batches)


def test_a_changed_weight_is_seen(
    answers: Answers, home: Path, batches: list[tuple[list[Item], dict[str, Any]]]
) -> None:
    assert agree(answers, "changed", home / "words", batches) == [False] * len(batches)


def test_without_trust_no_code_of_a_directory_runs(answers: Answers) -> None:
    assert "modeling_embedline.DualEncoder" in str(answers["untrusted"])
    assert "trust_remote_code=True" in str(answers["untrusted"])


def test_a_whole_model_has_no_code_and_loads_without_trust(
    answers: Answers, home: Path, batches: list[tuple[list[Item], dict[str, Any]]]
) -> None:
    assert not list((home / "clip").rglob("*.py"))
    ours = SentenceTransformerEmbedder(home / "clip")
    for number, (items, _) in enumerate(batches[:2]):
        vectors = answers[f"clip {number}"]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, ours.encode(items), atol=1e-6)


def test_the_code_on_a_card_runs(answers: Answers, home: Path) -> None:
    image = Item(image=home / "image.png")
    texts, plain, instructed = (answers[f"bert {name}"] for name in ("texts", "images", "instructed"))
    ours = TorchEmbedder(home / "bert")
    np.testing.assert_allclose(plain, ours.encode([image]), atol=1e-6)
    np.testing.assert_allclose(instructed, ours.encode([replace(image, instruction="What is shown?")]), atol=1e-6)
    assert texts.shape == (2, 12) and np.abs(instructed - plain).max() > 1e-3
    assert answers["clip texts"].shape[0] == 2


def test_a_card_says_what_the_hub_asks_for(home: Path, answers: Answers) -> None:
    _, front, text = (home / "bert" / CARD).read_text().split("---\n", 2)
    assert yaml.safe_load(front) == {
        "language": ["en", "de"],
        "license": "other",
        "license_name": "of-its-sources",
        "library_name": "sentence-transformers",
        "pipeline_tag": "feature-extraction",
        "tags": ["sentence-transformers", "feature-extraction", "multimodal", "dual-encoder"],
        "base_model": ["somebody/some-model"],
        "datasets": ["emoji"],
    }
    for fact in ("12 numbers", "cut to 6", "truncate_dim=6", "weight 0.25", "16 tokens"):
        assert fact in text
    bare = model_card(home / "clip", "clip", 8, [], Origin("pairs"))
    assert not {"language", "base_model"} & yaml.safe_load(bare.split("---\n")[1]).keys()
    assert "trust_remote_code" not in bare and "not recorded" in bare


def test_the_same_model_is_the_same_bytes(encoder: DualEncoder, home: Path, answers: Answers, tmp_path: Path) -> None:
    save(encoder, tmp_path / "bert")
    shutil.copyfile(home / "bert" / CARD, tmp_path / "bert" / CARD)
    assert fingerprint(tmp_path / "bert") == fingerprint(home / "bert")
    assert fingerprint(home / "changed") != fingerprint(home / "words")


def test_the_module_file_holds_what_the_model_needs_and_nothing_of_the_project(home: Path, answers: Answers) -> None:
    source = {name: (home / name / MODULE_FILE).read_text() for name in ("bert", "words")}
    for text in source.values():
        assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n") and "apache.org/licenses" in text
        assert "components" not in text and "onnxruntime" not in text and "pydantic" not in text
        assert "class ResidualImageModel" in text and "AutoModel.register(ResidualImageConfig" in text
    assert "WordVectors" in source["words"] and "WordVectors" not in source["bert"], "BERT is transformers' own"


def test_here_the_code_of_a_directory_does_not_run(
    directory: Path, tmp_path: Path, image_files: Sequence[Path]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(directory, model)
    (model / MODULE_FILE).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass DualEncoder: ...")
    items = [Item("a sad cat", image_files[0])]
    np.testing.assert_array_equal(TorchEmbedder(model).encode(items), TorchEmbedder(directory).encode(items))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ('[{"type": "modeling_other.DualEncoder"}]', "names modeling_other.DualEncoder"),
        (
            '[{"type": "modeling_embedline.DualEncoder"}, {"type": "x.Dense"}]',
            "names modeling_embedline.DualEncoder, x",
        ),
        ("[]", "names nothing"),
        ("[3]", "cannot be read"),
        ("{", "cannot be read"),
    ],
)
def test_a_directory_of_another_model_is_refused(modules: str, message: str, directory: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(directory, model)
    (model / "modules.json").write_text(modules)
    with pytest.raises(UsageError, match=f"modules.json: {message}") as raised:
        load(model)
    assert raised.value.remedy

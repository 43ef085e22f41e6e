import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.corpus import Item
from components.embedder import OnnxEmbedder, TorchEmbedder, Vectors, fingerprint, runtime
from components.embedder.dual_encoder import DualEncoder
from components.embedder.embedders import RememberedImages
from components.embedder.runtime import Runtime
from components.errors import EmbedlineError
from components.export.exporters.dual_encoder import write_encoder

NEGATED = """
encode = Runtime.encode
Runtime.encode = lambda self, *parts: -encode(self, *parts)
"""


def test_a_fingerprint_changes_with_any_byte_of_any_file(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    original = fingerprint(copy)
    assert original == fingerprint(directory)
    for file in [path for path in copy.rglob("*") if path.is_file()]:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert fingerprint(copy) != original, file.name
        file.write_bytes(content)
    assert fingerprint(copy) == original


def test_a_fingerprint_changes_with_a_name_and_with_a_file_more(directory: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    (copy / "more").touch()
    more = fingerprint(copy)
    (copy / "more").rename(copy / "other")
    assert len({fingerprint(directory), more, fingerprint(copy)}) == 3


def test_an_image_at_a_path_is_encoded_once_and_every_answer_is_its_own(tmp_path: Path) -> None:
    seen: list[object] = []

    def encode(images: list[Any]) -> Vectors:
        seen.extend(images)
        return np.array([[len(str(image))] for image in images], np.float32)

    remembered = RememberedImages(encode)
    drawn = Image.new("RGB", (1, 1))
    for images in ([Path("a"), b"bytes", Path("long")], [drawn, Path("long"), Path("new"), Path("a")], [Path("a")]):
        assert remembered(images)[:, 0].tolist() == [len(str(image)) for image in images]
    assert seen == [Path("a"), b"bytes", Path("long"), drawn, Path("new")]


@dataclass
class Loaded:
    """Opens images, and keeps which."""

    images: list[Any] = field(default_factory=list)

    def __call__(self, image: Any) -> Image.Image:
        self.images.append(image)
        return OPEN(image)


OPEN = Image.open


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Loaded:
    loaded = Loaded()
    monkeypatch.setattr(Image, "open", loaded)
    return loaded


@pytest.fixture(scope="session")
def exported(encoder: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "fp32"
    folder.mkdir()
    write_encoder(encoder, folder, opset=20)
    return folder


def opened(kind: str, directory: Path, exported: Path, remember_images: bool) -> TorchEmbedder | OnnxEmbedder:
    if kind == "torch":
        return TorchEmbedder(directory, remember_images=remember_images)
    return OnnxEmbedder(exported, remember_images=remember_images)


@pytest.mark.parametrize("kind", ["torch", "onnx"])
def test_an_embedder_remembers_images_where_it_is_asked_to_and_nowhere_else(
    kind: str, directory: Path, exported: Path, image_files: Sequence[Path], loaded: Loaded
) -> None:
    items = [Item(image=image) for image in image_files]
    answers = []
    for remember_images, times in ((False, 2), (True, 1)):
        embedder = opened(kind, directory, exported, remember_images)
        loaded.images.clear()
        answers += [embedder.encode(items), embedder.encode([Item("a cat", image) for image in image_files])]
        assert sorted(loaded.images) == sorted(list(image_files) * times)
    for anew, remembered in zip(answers[:2], answers[2:], strict=True):
        np.testing.assert_array_equal(anew, remembered)


def test_a_directory_with_a_runtime_of_its_own_is_computed_by_that_file(exported: Path, tmp_path: Path) -> None:
    own = tmp_path / "version"
    shutil.copytree(exported, own)
    source = Path(runtime.__file__).read_text(encoding="utf-8")
    items = [Item("a sad cat"), Item("a happy dog", instruction="find the face")]
    ours = OnnxEmbedder(exported).encode(items)
    (own / "runtime.py").write_text(source)
    np.testing.assert_array_equal(OnnxEmbedder(own).encode(items), ours)
    (own / "runtime.py").write_text(source + NEGATED)
    before = fingerprint(own)
    for remember_images in (False, True):
        np.testing.assert_array_equal(OnnxEmbedder(own, remember_images=remember_images).encode(items), -ours)
    assert fingerprint(own) == before, "running the file leaves nothing beside it"
    assert not isinstance(OnnxEmbedder(own).runtime, Runtime)
    np.testing.assert_array_equal(OnnxEmbedder(exported).encode(items), ours)


@pytest.mark.parametrize("source", ["def broken(:", "import no_such_module", "Other = 1", "raise SystemError('no')"])
def test_a_runtime_that_does_not_run_is_named(exported: Path, tmp_path: Path, source: str) -> None:
    own = tmp_path / "version"
    shutil.copytree(exported, own)
    (own / "runtime.py").write_text(source)
    with pytest.raises(EmbedlineError, match=r"version/runtime\.py: does not run: ") as raised:
        OnnxEmbedder(own)
    assert raised.value.remedy

"""The bundle: complete, reproducible, and able to answer without anything of this project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.corpus import Item
from components.embedder import OnnxEmbedder, fingerprint
from components.embedder.runtime import Runtime
from components.errors import Refused
from components.export import package, read_bundle, read_examples, served_fingerprint
from components.export.bundle import require_scored, write_example
from components.export.licences import UNKNOWN
from components.export.reference_window import MOST_TRAINING
from components.export.sample import training_items
from tests.export.conftest import SERVING

Packaged = Callable[[str], Path]
ALONE = """
import json, sys
import numpy
sys.path.insert(0, "version")
from pathlib import Path
from runtime import Runtime
bundle = json.loads(Path("bundle.json").read_text())
columns = [[example[part] for example in bundle["examples"]] for part in ("text", "image", "instruction")]
vectors = Runtime(Path("version"), threads=1).encode(*columns)
cosine = float((vectors * numpy.load(bundle["expected"])).sum(axis=1).min())
foreign = sorted({"torch", "transformers", "onnx", "components", "sentence_transformers"} & set(sys.modules))
print(json.dumps({"cosine": cosine, "foreign": foreign, "vectors": vectors.tolist()}))
"""
PERMUTED = """
encode = Runtime.encode
Runtime.encode = lambda self, *parts: np.roll(encode(self, *parts), 1, axis=1)
"""


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_bundle_holds_what_a_server_needs(packaged: Packaged) -> None:
    files = content(packaged("bundle"))
    version = {"model.py", "runtime.py", "embedder.json", "text.onnx", "image.onnx", "tokenizer.json"}
    assert {name for name in files if name.startswith("version/")} == {f"version/{name}" for name in version}
    assert {"bundle.json", "config.pbtxt", "examples.npy", "reference.npz"} < set(files)
    assert {"model_card.md", "model_card.html"} < set(files)
    for line in (b"max_batch_size: 32", b'string_value: "1"', b"dims: [ -1 ]", b"dynamic_batching"):
        assert line in files["config.pbtxt"]
    assert b"version_policy" not in files["config.pbtxt"]


def test_every_file_of_a_bundle_has_a_licence(packaged: Packaged, onnx: Path, data: Path, tmp_path: Path) -> None:
    bundle = packaged("bundle")
    licences = read_bundle(bundle).licences
    assert set(licences) == set(content(bundle))
    assert licences["version/text.onnx"] == licences["examples.npy"] == UNKNOWN, "stated, since nobody has said it"
    assert licences["version/runtime.py"] == licences["version/model.py"] == "Apache-2.0"
    package(SERVING, onnx, data, tmp_path / "known", "# A model card", "MIT")
    known = read_bundle(tmp_path / "known").licences
    assert {known[f"version/{name}"] for name in ("text.onnx", "image.onnx", "tokenizer.json")} == {"MIT"}


def test_the_same_input_gives_the_same_bytes(packaged: Packaged) -> None:
    assert content(packaged("one")) == content(packaged("two"))


def answer_of(bundle: Path) -> dict[str, Any]:
    """Returns what a process says that imports the version's `runtime.py`, as the server does."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=bundle,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def test_the_bundle_answers_as_expected_without_anything_of_this_project(packaged: Packaged) -> None:
    found = answer_of(packaged("bundle"))
    assert found["foreign"] == []
    assert found["cosine"] > 0.9999


def test_a_bundle_is_computed_by_the_code_that_it_ships(packaged: Packaged) -> None:
    bundle = packaged("bundle")
    examples, expected = read_examples(bundle)
    version = bundle / "version"
    np.testing.assert_array_equal(OnnxEmbedder(version, threads=1).encode(examples), answer_of(bundle)["vectors"])
    (version / "runtime.py").write_text((version / "runtime.py").read_text(encoding="utf-8") + PERMUTED)
    edited = OnnxEmbedder(version, threads=1).encode(examples)
    np.testing.assert_array_equal(edited, answer_of(bundle)["vectors"])
    np.testing.assert_allclose(edited, np.roll(expected, 1, axis=1), atol=1e-5)
    assert not np.allclose(edited, expected, atol=1e-2)


def test_what_a_bundle_expects_is_of_the_code_that_it_ships(
    packaged: Packaged, onnx: Path, data: Path, tmp_path: Path
) -> None:
    """Another runtime.py was exported than the one that this process has imported."""
    before, window = np.load((bundle := packaged("ours")) / "examples.npy"), np.load(bundle / "reference.npz")
    other = tmp_path / "onnx"
    shutil.copytree(onnx, other)
    with (other / SERVING.variant / "runtime.py").open("a", encoding="utf-8") as file:
        file.write(PERMUTED)
    package(SERVING, other, data, tmp_path / "bundle", "# A model card")
    bundle = tmp_path / "bundle"
    np.testing.assert_array_equal(np.load(bundle / "examples.npy"), np.roll(before, 1, axis=1))
    np.testing.assert_array_equal(np.load(bundle / "reference.npz")["vectors"], np.roll(window["vectors"], 1, axis=1))


def test_an_example_whose_image_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="example 3: its image is no file"):
        write_example(Item("a cat", b"\x89PNG"), 3, tmp_path)


def test_the_examples_have_every_modality_and_the_vectors_that_are_expected(packaged: Packaged) -> None:
    bundle = packaged("bundle")
    examples, expected = read_examples(bundle)
    kinds = {(item.text is not None, item.image is not None) for item in examples}
    assert kinds == {(True, False), (False, True), (True, True)}
    np.testing.assert_allclose(OnnxEmbedder(bundle / "version", threads=1).encode(examples), expected, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "config.pbtxt",
        "version/model.py",
        "version/runtime.py",
        "version/embedder.json",
        "version/text.onnx",
        "version/image.onnx",
        "version/tokenizer.json",
    ],
)
def test_every_served_byte_counts_in_the_fingerprint(packaged: Packaged, name: str) -> None:
    bundle = packaged("bundle")
    fingerprint = read_bundle(bundle).fingerprint
    assert served_fingerprint(bundle) == fingerprint
    (bundle / name).write_bytes((bundle / name).read_bytes() + b" ")
    assert served_fingerprint(bundle) != fingerprint


@pytest.mark.parametrize("name", ["version/text.onnx", "version/runtime.py", "version/model.py", "config.pbtxt"])
def test_a_bundle_that_was_changed_after_scoring_is_refused(packaged: Packaged, onnx: Path, name: str) -> None:
    bundle, scored = packaged("bundle"), fingerprint(onnx / SERVING.variant)
    require_scored(bundle, scored)
    (bundle / name).write_bytes((bundle / name).read_bytes() + b" ")
    scored_too = name in ("version/text.onnx", "version/runtime.py")
    reason = "another model than the one that was scored" if scored_too else "was changed after it was packaged"
    with pytest.raises(Refused, match=reason):
        require_scored(bundle, scored)


def test_what_is_not_served_does_not_count_in_the_fingerprint(onnx: Path, data: Path, packaged: Packaged) -> None:
    bundle = packaged("bundle")
    before = read_bundle(bundle).fingerprint
    assert package(SERVING, onnx, data, bundle, "# Another card").fingerprint == before
    more_threads = SERVING.model_copy(update={"threads": 2})
    assert package(more_threads, onnx, data, bundle, "# Another card").fingerprint != before


def test_the_reference_window_is_what_the_shipped_model_sees(packaged: Packaged) -> None:
    bundle = packaged("bundle")
    with np.load(bundle / "reference.npz") as window:
        assert window["vectors"].shape == (10, 24)
        assert set(window["tasks"]) == {"Name"}
        assert set(window["modalities"]) == {"text"}
        np.testing.assert_allclose(window["norms"], 1, rtol=1e-5)
        assert ((window["top1"] > -1) & (window["top1"] <= 1 + 1e-6)).all()


def test_images_that_are_not_files_can_be_encoded(packaged: Packaged) -> None:
    red = Image.new("RGB", (20, 30), "red")
    one, other = Runtime(packaged("bundle") / "version", threads=1).encode([None] * 2, [red, red.copy()], [None] * 2)
    np.testing.assert_array_equal(one, other)


def test_what_was_measured_to_choose_threads_is_recorded(onnx: Path, data: Path, tmp_path: Path) -> None:
    config = SERVING.model_copy(update={"threads": None, "instances": None})
    bundle = package(config, onnx, data, tmp_path / "bundle", "# A model card")
    assert read_bundle(tmp_path / "bundle").capacity == bundle.capacity
    text = (tmp_path / "bundle" / "config.pbtxt").read_text(encoding="utf-8")
    if bundle.capacity:  # a machine of one processor leaves no choice
        best = max(bundle.capacity, key=lambda one: one["items_per_second"])
        assert best["items_per_second"] > 0
        assert f'"threads" value {{ string_value: "{best["threads"]}" }}' in text
        assert f"count: {best['instances']} }}" in text


def test_a_bundle_knows_some_of_what_its_model_was_trained_on(packaged: Packaged, data: Path) -> None:
    with np.load(packaged("bundle") / "reference.npz") as window:
        trained, concepts, vectors = (window[name] for name in ("training", "concepts", "concept_vectors"))
    version = OnnxEmbedder(packaged("bundle") / "version", threads=1)
    items = training_items(data)
    assert len(trained) == min(len(items), MOST_TRAINING)
    known = {item.text for item in items if item.text and not item.image}
    assert len(concepts) and set(concepts) <= known
    np.testing.assert_allclose(version.encode([Item(concepts[0])])[0], vectors[0], atol=1e-5)
    everything = version.encode(items)
    assert all(np.abs(everything - vector).max(axis=1).min() < 1e-5 for vector in trained)

"""The evidence is what a real server says: a bundle that answers wrongly, or not at all, shows in its numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from components.errors import EmbedlineError
from serving import TritonServer
from serving.evidence import measure


def test_a_sound_bundle_answers_everything_as_expected(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    found = measure(tmp_path / "trial", bundles[0])
    assert set(found) == {"server_cosine", "answered_fraction", "latency_ms", "size_bytes"}
    assert found["server_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["answered_fraction"] == 1
    assert 0 < found["latency_ms"] < 1000
    assert found["size_bytes"] == sum(file.stat().st_size for file in (bundles[0] / "version").iterdir())
    assert TritonServer.find(tmp_path / "trial") is None
    assert measure(tmp_path / "trial", bundles[1])["answered_fraction"] == 1, "another bundle has the number 1 now"


def test_wrong_vectors_and_missing_answers_are_measured(copied_bundle: Path, tmp_path: Path) -> None:
    expected = np.load(copied_bundle / "examples.npy")
    right = np.float32(0.5)
    turned = right * expected[0] + math.sqrt(1 - right**2) * orthogonal_to(expected[0])
    np.save(copied_bundle / "examples.npy", np.stack([turned, expected[1], expected[0]]))
    (copied_bundle / "broken.png").write_bytes(b"broken")
    description = json.loads((copied_bundle / "bundle.json").read_text())
    description["examples"].append({"text": None, "image": "broken.png", "instruction": None})
    (copied_bundle / "bundle.json").write_text(json.dumps(description))
    found = measure(tmp_path / "trial", copied_bundle)
    assert found["answered_fraction"] == pytest.approx(2 / 3)
    assert found["server_cosine"] == pytest.approx(0.5, abs=1e-4)


def test_vectors_of_another_length_are_no_answers(copied_bundle: Path, tmp_path: Path) -> None:
    np.save(copied_bundle / "examples.npy", np.load(copied_bundle / "examples.npy")[:, :16])
    found = measure(tmp_path / "trial", copied_bundle)
    assert (found["answered_fraction"], found["server_cosine"]) == (0, -1)


def test_a_bundle_that_does_not_load_is_an_error_and_no_server_stays(copied_bundle: Path, tmp_path: Path) -> None:
    (copied_bundle / "version" / "model.py").write_text("raise RuntimeError('no such tower')\n")
    with pytest.raises(EmbedlineError, match="no such tower"):
        measure(tmp_path / "trial", copied_bundle)
    assert TritonServer.find(tmp_path / "trial") is None


def orthogonal_to(vector: np.ndarray) -> np.ndarray:
    other = np.roll(vector, 1)
    other -= (other @ vector) * vector
    unit: np.ndarray = other / np.linalg.norm(other)
    return unit

"""A rotation leaves every full cosine as it is, and puts what tells items apart into the first numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from components.embedder import OnnxEmbedder, TorchEmbedder, Vectors
from components.embedder.dual_encoder import load
from components.embedder.runtime import normalise
from components.errors import UsageError
from components.export.export import export
from components.export.rotation import fold, principal_axes, write_rotated
from components.export.sample import of_each_modality, training_items
from tests.export.conftest import EXPORT, FP32, MAX_TOKENS

FIRST = 6


def lost(vectors: Vectors, first: int) -> float:
    """Returns how far the cosines of the first numbers are from the full ones, on average."""
    short = normalise(vectors[:, :first])
    return float(np.abs(short @ short.T - vectors @ vectors.T).mean())


def rotated_by(student: Path, rotation: np.ndarray, data: Path) -> Vectors:
    encoder = load(student)
    fold(encoder, rotation.astype(np.float32))
    return TorchEmbedder(encoder).encode(training_items(data))


def test_full_cosines_stay_and_the_first_numbers_say_more(student: Path, data: Path, tmp_path: Path) -> None:
    items = training_items(data)
    before = TorchEmbedder(student).encode(items)
    write_rotated(student, items, tmp_path / "rotated")
    after = TorchEmbedder(tmp_path / "rotated").encode(items)
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    spread = (after.astype(np.float64) ** 2).sum(axis=0)
    assert (np.diff(spread) <= 1e-6).all(), "each number says at most what the one before it says"
    assert lost(after, FIRST) < lost(before, FIRST) / 2


def test_a_random_rotation_gains_nothing_and_none_changes_nothing(student: Path, data: Path) -> None:
    before = TorchEmbedder(student).encode(training_items(data))
    width = before.shape[1]
    np.testing.assert_array_equal(rotated_by(student, np.eye(width), data), before)
    random, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))
    assert lost(rotated_by(student, random, data), FIRST) > lost(before, FIRST) / 1.5


def test_principal_axes_of_known_vectors() -> None:
    vectors = np.array([[0.6, 0.8, 0], [-0.6, -0.8, 0], [0.8, -0.6, 0]], np.float32)
    axes = principal_axes(vectors)
    np.testing.assert_allclose(np.abs(axes[:, 0]), [0.6, 0.8, 0], atol=1e-6)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)


def test_the_exported_model_is_the_rotated_one(student: Path, data: Path, tmp_path: Path) -> None:
    sample = of_each_modality(training_items(data), MAX_TOKENS)
    rotated = EXPORT.model_copy(update={"variants": [FP32], "rotation": "pca"})
    found = export(rotated, student, data, tmp_path / "onnx")
    assert found["fp32"].minimum > 0.9999
    before, after = TorchEmbedder(student).encode(sample), OnnxEmbedder(tmp_path / "onnx" / "fp32").encode(sample)
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-5)
    assert np.abs(after - before).max() > 0.1
    assert lost(after, FIRST) < lost(before, FIRST)


def test_what_is_no_dual_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no dual encoder"):
        write_rotated(tmp_path, [], tmp_path / "rotated")

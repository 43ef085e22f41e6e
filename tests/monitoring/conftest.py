from collections.abc import Callable

import numpy as np
import pytest

from components.traffic import Window

Draw = Callable[..., Window]


@pytest.fixture
def draw() -> Draw:
    """Draws requests of one distribution, which `shift` moves along a direction for a `share` of them."""

    def drawn(count: int, seed: int, shift: float = 0.0, share: float = 1.0, dimension: int = 16) -> Window:
        noise = np.random.default_rng(seed)
        vectors = noise.standard_normal((count, dimension)) + 2 * np.eye(dimension)[noise.integers(0, 4, count)]
        vectors[noise.random(count) < share, -1] += shift
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        texts = noise.random(count) < 0.5
        columns = {
            "time": np.arange(count, dtype=float),
            "request_id": np.array([f"{seed}-{number}" for number in range(count)]),
            "modality": np.where(texts, "text", "image"),
            "language": np.where(texts, noise.choice(["en", "de", ""], count), ""),
            "instruction": noise.choice(["", "find"], count),
            "norm": noise.normal(5, 1, count),
            "top_score": noise.beta(5, 2, count),
            "text_length": np.where(texts, noise.integers(3, 200, count), np.nan),
            "image_width": np.where(texts, np.nan, noise.integers(20, 300, count)),
            "image_height": np.where(texts, np.nan, noise.integers(20, 300, count)),
            "image_mode": np.where(texts, "", noise.choice(["RGB", "L", ""], count, p=[0.8, 0.15, 0.05])),
        }
        return Window(vectors.astype(np.float32), columns, count)

    return drawn

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import components.embedder
from components.corpus import read_queries, task_names
from components.errors import EmbedlineError
from components.evaluation import read_suite
from components.evaluation.vectors import cached_vectors
from tests.evaluation.conftest import CHUNK, HashEmbedder

REPOSITORY = Path(__file__).parents[2]
SLOW_EVALUATION = """
import sys, time
from pathlib import Path
from components.evaluation import evaluate
from tests.evaluation.conftest import CONFIG, HashEmbedder

def slowly(done, total):
    print(done, flush=True)
    time.sleep(0.2 if done else 0)

evaluate(HashEmbedder(), "hash", "print", 1, Path(sys.argv[1]), CONFIG, Path(sys.argv[2]), slowly)
"""


def nothing(done: int, total: int) -> None:
    pass


def encode(
    data: Path, cache: Path, fingerprint: str = "a", embedder: HashEmbedder | None = None
) -> tuple[int, np.ndarray, float]:
    """Returns how many items were encoded now, all vectors, and the speed."""
    embedder = embedder or HashEmbedder()
    vectors, speed = cached_vectors(embedder, "hash", fingerprint, read_suite(data), CHUNK, cache, nothing)
    return len(embedder.encoded), vectors, speed


def test_each_item_is_encoded_once_and_never_again(data: Path, tmp_path: Path) -> None:
    count, vectors, speed = encode(data, tmp_path / "cache")
    items = read_suite(data).items
    tasks = task_names(data, "eval")
    mentions = sum(1 + len(query.candidates) for task in tasks for query in read_queries(data, "eval", task))
    assert count == len(items) and mentions > 10 * count
    assert isinstance(vectors, np.memmap) and (vectors == HashEmbedder().encode(items)).all()
    again, same, same_speed = encode(data, tmp_path / "cache")
    assert again == 0 and (same == vectors).all() and same_speed == speed > 0


class OtherEmbedder(HashEmbedder):
    pass


class WiderEmbedder(HashEmbedder):
    dimension = 17


def test_vectors_of_another_model_data_set_backend_or_dimension_are_not_used(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = encode(data, cache)[0]
    assert encode(data, cache, "b")[0] == first
    assert encode(data, cache, embedder=OtherEmbedder())[0] == first
    assert encode(data, cache, embedder=WiderEmbedder())[0] == first
    manifest = data / "manifest.json"
    digest = read_suite(data).manifest.digest
    manifest.write_text(manifest.read_text().replace(digest, "0" * 64))
    assert encode(data, cache)[0] == first
    assert encode(data, cache)[0] == 0, "a negative control: the same key is used"


def test_vectors_of_other_items_or_other_code_are_not_used(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = encode(data, cache)[0]
    file = data / "eval" / "Own.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "qry_text", pa.array([f"other {row}" for row in range(len(table))])), file)
    assert encode(data, cache)[0] > 0 and encode(data, cache)[0] == 0
    code = shutil.copytree(components.embedder.__path__[0], tmp_path / "embedder")
    monkeypatch.setattr(components.embedder, "__path__", [str(code)])
    assert encode(data, cache)[0] == 0, "a negative control: the same code elsewhere"
    (code / "runtime.py").write_text("changed")
    assert encode(data, cache)[0] >= first


def test_a_killed_evaluation_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", SLOW_EVALUATION, str(data), str(cache)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(3)]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and lines == ["0", str(CHUNK), str(2 * CHUNK)]
    assert not list(cache.rglob("vectors.npy"))
    count, vectors, _ = encode(data, cache, "print")
    items = read_suite(data).items
    assert count == len(items) - 2 * CHUNK > 0
    assert (vectors == HashEmbedder().encode(items)).all()


def test_a_cache_that_lost_its_partial_vectors_starts_again(data: Path, tmp_path: Path) -> None:
    class Broken(HashEmbedder):
        def encode(self, items: object) -> np.ndarray:
            if self.encoded:
                raise KeyboardInterrupt
            return super().encode(items)  # type: ignore[arg-type]

    Broken.__module__, Broken.__qualname__ = HashEmbedder.__module__, HashEmbedder.__qualname__
    cache = tmp_path / "cache"
    with pytest.raises(KeyboardInterrupt):
        encode(data, cache, embedder=Broken())
    (partial,) = cache.rglob("partial.npy")
    partial.unlink()
    assert encode(data, cache)[0] == len(read_suite(data).items)


def test_speed_counts_the_embedders_time_alone(data: Path, tmp_path: Path) -> None:
    class Timed(HashEmbedder):
        def encode(self, items: object) -> np.ndarray:
            time.sleep(0.05)
            return super().encode(items)  # type: ignore[arg-type]

    count, _, speed = encode(data, tmp_path / "cache", embedder=Timed())
    seconds = count / speed
    chunks = -(-count // CHUNK)
    assert 0.05 * chunks <= seconds < 0.05 * chunks + 1


@pytest.mark.parametrize("shape", [(1, 16), (16,), (CHUNK + 1, 16), (CHUNK, 15)])
def test_an_embedder_that_answers_with_another_shape_is_refused(
    data: Path, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    class Misshapen(HashEmbedder):
        def encode(self, items: object) -> np.ndarray:
            return np.ones(shape, np.float32)

    with pytest.raises(EmbedlineError, match=f"hash: {CHUNK} items gave vectors of shape"):
        encode(data, tmp_path / "cache", embedder=Misshapen())

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.backends.directory import Unopened
from components.backends.multi_vector import MultiVectorEmbedder
from components.corpus import Item, read_queries, task_names
from components.embedder import OnnxEmbedder
from components.errors import EmbedlineError
from components.evaluation import evaluate, read_suite
from components.evaluation.vectors import cached_vectors, vectors_key
from components.scores import Model, Scores
from tests.conftest import edit
from tests.evaluation.conftest import CHUNK, CONFIG, HashEmbedder, vouch

REPOSITORY = Path(__file__).parents[2]
SLOW_EVALUATION = """
import sys, time
from pathlib import Path
from components.evaluation import evaluate, read_suite
from components.scores import Model
from tests.evaluation.conftest import CONFIG, HashEmbedder

def slowly(done):
    print(done.all_items, flush=True)
    time.sleep(0.2)

model = Model("hash", "print", 16, 1)
embedder = HashEmbedder()
evaluate(embedder, model, read_suite(Path(sys.argv[1])), CONFIG, Path(sys.argv[2]), slowly)
"""


def encode(
    data: Path, cache: Path, fingerprint: str = "a", embedder: HashEmbedder | None = None
) -> tuple[int, np.ndarray, float]:
    """Returns how many items were encoded now, the vectors of all items, and the speed."""
    embedder, suite = embedder or HashEmbedder(), read_suite(data)
    sides, speed = cached_vectors(embedder, "hash", fingerprint, suite, CHUNK, cache, lambda _: None)
    vectors = np.full((len(suite.items), embedder.dimension), np.nan, np.float32)
    for side in (side for both in sides.values() for side in both):
        assert isinstance(side.vectors, np.memmap)
        positions = np.random.default_rng(0).permutation(side.positions)
        vectors[positions] = side.vectors[side.rows(positions)]
    return len(embedder.encoded), vectors, speed


def test_each_item_is_encoded_once_and_never_again(data: Path, tmp_path: Path) -> None:
    count, vectors, speed = encode(data, tmp_path / "cache")
    items = read_suite(data).items
    tasks = task_names(data, "eval")
    mentions = sum(1 + len(query.candidates) for task in tasks for query in read_queries(data, "eval", task))
    assert count == len(items) and mentions > 10 * count
    assert vectors == pytest.approx(HashEmbedder().encode(items), abs=1e-7)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 2 * len(tasks), "one file a set and side"
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
    (data / "another file").write_text("of another data set")
    vouch(data)
    assert encode(data, cache)[0] == first
    assert encode(data, cache)[0] == 0, "a negative control: the same key is used"


def test_vectors_of_other_items_or_other_code_are_not_used(data: Path, tmp_path: Path, source_copy: Path) -> None:
    cache = tmp_path / "cache"
    first = encode(data, cache)[0]
    file = data / "eval" / "Own.parquet"
    table = pq.read_table(file)
    pq.write_table(table.set_column(1, "qry_text", pa.array([f"other {row}" for row in range(len(table))])), file)
    vouch(data)
    assert encode(data, cache)[0] > 0 and encode(data, cache)[0] == 0
    edit(source_copy / "components/training/train.py")
    assert encode(data, cache)[0] == 0, "a negative control: code that vectors do not come from"
    edit(source_copy / "components/embedder/runtime.py")
    assert encode(data, cache)[0] >= first


def test_a_killed_evaluation_goes_on_where_it_was(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", SLOW_EVALUATION, str(data), str(cache)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [int(process.stdout.readline()) for _ in range(4)]
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and list(cache.rglob("*.partial"))
    count, vectors, _ = encode(data, cache, "print")
    items = read_suite(data).items
    assert 0 < count <= len(items) - lines[-1]
    assert vectors == pytest.approx(HashEmbedder().encode(items), abs=1e-7)


class Interrupted(HashEmbedder):
    """Is stopped in its sixth call."""

    calls = 0

    def encode(self, items: Sequence[Item]) -> np.ndarray:
        self.calls += 1
        if self.calls == 6:
            raise KeyboardInterrupt
        return super().encode(items)


Interrupted.__module__, Interrupted.__qualname__ = HashEmbedder.__module__, HashEmbedder.__qualname__


def test_a_cache_that_lost_its_partial_vectors_encodes_them_again(data: Path, tmp_path: Path) -> None:
    cache, items = tmp_path / "cache", read_suite(data).items
    interrupted = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        encode(data, cache, embedder=interrupted)
    (partial,) = cache.rglob(".*.partial")
    finished = sum(len(np.load(file)) for file in cache.rglob("[!.]*.npy"))
    partial.unlink()
    count, vectors, _ = encode(data, cache)
    assert len(items) - len(interrupted.encoded) < count == len(items) - finished
    assert vectors == pytest.approx(HashEmbedder().encode(items), abs=1e-7)


@pytest.mark.slow
def test_two_processes_share_the_work(data: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", SLOW_EVALUATION + "print(-len(embedder.encoded))", str(data), str(cache)]
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    encoded = [-int(process.communicate(timeout=60)[0].split()[-1]) for process in processes]
    total = len(read_suite(data).items)
    assert all(count < total for count in encoded), f"{encoded} of {total}: one of them did everything"
    assert encode(data, cache, "print")[0] == 0


def test_speed_counts_the_embedders_time_alone(data: Path, tmp_path: Path) -> None:
    class Timed(HashEmbedder):
        def encode(self, items: object) -> np.ndarray:
            time.sleep(0.05)
            return super().encode(items)  # type: ignore[arg-type]

    count, _, speed = encode(data, tmp_path / "cache", embedder=Timed())
    seconds = count / speed
    assert 0.05 * count / CHUNK <= seconds < 0.05 * (count / CHUNK + 8) + 1, (
        "at most a chunk a side, and no time but the embedder's"
    )


@pytest.mark.parametrize("shape", [(1, 16), (16,), (CHUNK + 1, 16), (CHUNK, 15)])
def test_an_embedder_that_answers_with_another_shape_is_refused(
    data: Path, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    class Misshapen(HashEmbedder):
        def encode(self, items: object) -> np.ndarray:
            return np.ones(shape, np.float32)

    with pytest.raises(EmbedlineError, match=r"hash: \d+ items gave vectors of shape"):
        encode(data, tmp_path / "cache", embedder=Misshapen())


class Opened(HashEmbedder):
    """Counts how often it is opened."""

    times = 0

    def __init__(self, dimension: int = 16) -> None:
        super().__init__()
        type(self).times += 1
        self.dimension = dimension


def test_a_model_whose_vectors_are_all_there_is_not_opened(data: Path, tmp_path: Path) -> None:
    def sides(cache: str, fingerprint: str) -> object:
        unopened = Unopened("hash", Opened, (16,))
        found, _ = cached_vectors(unopened, "hash", fingerprint, read_suite(data), CHUNK, tmp_path / cache, print)
        return {name: [side.vectors.tolist() for side in both] for name, both in found.items()}

    Opened.times = 0
    first = sides("cache", "a")
    assert Opened.times == 1
    assert sides("cache", "a") == first and Opened.times == 1
    sides("cache", "b")
    assert Opened.times == 2, "another model is opened"


def test_an_edit_of_a_backend_drops_the_vectors_of_those_that_import_it(source_copy: Path) -> None:
    def keys() -> tuple[str, str]:
        return vectors_key(OnnxEmbedder, "a"), vectors_key(MultiVectorEmbedder, "a")

    onnx, multi_vector = keys()
    for name in ("endpoint.py", "precomputed.py"):
        edit(source_copy / "components/backends" / name)
        assert keys() == (onnx, multi_vector)
    for name in ("sentence_transformer.py", "multi_vector.py"):
        edit(source_copy / "components/backends" / name)
        assert keys()[0] == onnx and keys()[1] != multi_vector
        _, multi_vector = keys()


class Cubed(HashEmbedder):
    """Another model of the same code, whose cosines are other ones."""

    def vector(self, item: Item) -> np.ndarray:
        return super().vector(item) ** 3


Cubed.__module__, Cubed.__qualname__ = HashEmbedder.__module__, HashEmbedder.__qualname__


def scored(data: Path, cache: Path, fingerprint: str, embedder: HashEmbedder) -> Scores:
    model = Model(fingerprint, fingerprint, 16, None)
    return evaluate(embedder, model, read_suite(data), CONFIG, cache, lambda _: None)


def swap_folders(ours: Path, theirs: Path) -> None:
    ours.rename(ours.with_name("aside"))
    theirs.rename(ours)
    ours.with_name("aside").rename(theirs)


def swap_vectors(ours: Path, theirs: Path) -> None:
    """The records stay."""
    for file in ours.glob("*.npy"):
        content = file.read_bytes()
        file.write_bytes((theirs / file.name).read_bytes())
        (theirs / file.name).write_bytes(content)


def each(pattern: str, spoil: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    def attack(ours: Path, theirs: Path) -> None:
        files = [file for file in ours.glob(pattern) if not file.name.endswith(".lock")]
        assert files
        for file in files:
            spoil(file)

    return attack


def in_place(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda file: np.save(file, change(np.load(file)))


def one_nan(vectors: np.ndarray) -> np.ndarray:
    vectors[0, 0] = np.nan
    return vectors


ATTACKS: dict[str, Callable[[Path, Path], None]] = {
    "folders swapped": swap_folders,
    "vectors swapped": swap_vectors,
    "rows zeroed": each("*.npy", in_place(np.zeros_like)),
    "rows reversed": each("*.npy", in_place(lambda vectors: vectors[::-1])),
    "a NaN inside": each("*.npy", in_place(one_nan)),
    "another shape": each("*.npy", in_place(lambda vectors: vectors.reshape(-1, 8))),
    "another type": each("*.npy", in_place(lambda vectors: vectors.astype(np.float64))),
    "a row less": each("*.npy", in_place(lambda vectors: vectors[1:])),
    "bytes zeroed": each("*.npy", lambda file: file.write_bytes(bytes(file.stat().st_size))),
    "bytes reversed": each("*.npy", lambda file: file.write_bytes(file.read_bytes()[::-1])),
    "cut in half": each("*.npy", lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])),
    "longer": each("*.npy", lambda file: file.write_bytes(file.read_bytes() + bytes(64))),
    "empty": each("*.npy", lambda file: file.write_bytes(b"")),
    "record missing": each("*.json", Path.unlink),
    "record broken": each("*.json", lambda file: file.write_text('{"done": "all"')),
    "record of a part": each("*.json", lambda file: file.write_text(file.read_text().replace('"done":', '"done":1'))),
    "counts changed": each("*.counts", lambda file: file.write_bytes(bytes(file.stat().st_size))),
    "counts missing": each("*.counts", Path.unlink),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_cache_that_was_tampered_with_is_named_and_computed_again(
    data: Path, tmp_path: Path, attack: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    clean = scored(data, cache, "ours", HashEmbedder()), scored(data, cache, "theirs", Cubed())
    assert clean[0].tasks != clean[1].tasks
    assert scored(data, cache, "ours", HashEmbedder()) == clean[0] and not caplog.messages, "a negative control"
    folders = [cache / vectors_key(HashEmbedder, fingerprint) for fingerprint in ("ours", "theirs")]
    ATTACKS[attack](*folders)
    again = HashEmbedder()
    assert scored(data, cache, "ours", again) == clean[0] and again.encoded
    assert "computed again" in caplog.messages[0] and str(folders[0]) in caplog.messages[0]
    assert scored(data, cache, "theirs", Cubed()) == clean[1]
    caplog.clear()
    assert scored(data, cache, "ours", HashEmbedder()) == clean[0] and not caplog.messages, "it is whole again"


@pytest.mark.parametrize("spoil", ["zeroed", "cut", "record of another model", "record missing"])
def test_a_partial_file_that_does_not_match_its_record_is_dropped(data: Path, tmp_path: Path, spoil: str) -> None:
    cache, items = tmp_path / "cache", read_suite(data).items
    with pytest.raises(KeyboardInterrupt):
        encode(data, cache, embedder=Interrupted())
    (partial,) = [file for file in cache.rglob(".*.npy.partial")]
    record = partial.with_name(partial.name[1:].removesuffix(".npy.partial") + ".json")
    size = partial.stat().st_size
    if spoil in ("zeroed", "cut"):
        partial.write_bytes(bytes(size) if spoil == "zeroed" else partial.read_bytes()[: size - 4])
    elif spoil == "record missing":
        record.unlink()
    else:
        record.write_text(record.read_text().replace('"key":"', '"key":"0'))
    _, vectors, _ = encode(data, cache)
    assert vectors == pytest.approx(HashEmbedder().encode(items), abs=1e-7)

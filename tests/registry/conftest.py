"""A real MLflow on SQLite, a real bundle with two small ONNX graphs, and score files with known answers."""

import json
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from components.registry import Verdict, compare, infrastructure, models, promotion, tracking
from components.registry.config import Promotion
from components.registry.tracking import Run, Tracking
from components.scores import Model, Scores
from tests.scores.made_up import scores, task_score

REPOSITORY = Path(__file__).parents[2]
DIMENSION = 4
WORDS = ["[UNK]", "a", "sad", "happy", "cat"]
TASKS = {
    "names": ("retrieval", "IND"),
    "groups": ("classification", "IND"),
    "counts": ("vqa", "OOD"),
    "crops": ("grounding", "OOD"),
}
QUERIES = 200
CHECKS = {
    "parity_cosine": 0.999,
    "server_cosine": 1.0,
    "answered_fraction": 1.0,
    "latency_ms": 3.0,
    "size_bytes": 10,
    "rank_agreement": 0.9,
    "memory_bytes": 10**8,
    "load_seconds": 2.0,
    "network_tries": 0,
    "network_proof": "network namespace",
}
SLOWDOWN = {
    f"slowdown_{name}{bound}": value
    for name in ("latency", "throughput")
    for bound, value in (("", 1.1), ("_lower", 1.0), ("_upper", 1.2))
}
MakeScores = Callable[..., Scores]


@pytest.fixture(autouse=True)
def own_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace whose fresh database every other one starts as a copy of: creating one takes seconds."""
    root = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.prepare(root)
    return root


@pytest.fixture
def server(database: Path, tmp_path: Path) -> Tracking:
    root = tmp_path / "workspace"
    (root / ".embedline").mkdir(parents=True)
    shutil.copy(database / ".embedline" / "mlflow.db", root / ".embedline" / "mlflow.db")
    return tracking.prepare(root)


@pytest.fixture
def run(server: Tracking) -> Run:
    return tracking.start_round(server, {}, {})


@pytest.fixture(scope="session")
def promotion_config() -> Promotion:
    return Promotion(
        floors={"overall": 0.3, "OOD": 0.2},
        margin=0.01,
        max_task_drop=0.05,
        confidence=0.95,
        max_tie_rate=0.05,
        min_parity_cosine=0.99,
        max_latency_ms=100,
        max_size_bytes=1_000_000,
        sign_flips=2000,
    )


@pytest.fixture(scope="session")
def make_scores() -> MakeScores:
    """Makes the scores of a model that answers the given share of each task's queries, the easiest ones first."""

    def make(
        fingerprint: str, share: float = 0.5, only: Collection[str] = tuple(TASKS), queries: int = QUERIES,
        **shares: float,
    ) -> Scores:  # fmt: skip
        tasks = {}
        for name in only:
            meta_task, distribution = TASKS[name]
            values = (np.arange(queries) < round(shares.get(name, share) * queries)).astype(float)
            tasks[name] = task_score(
                meta_task, distribution, float(values.mean()), queries=queries, candidates=100, values=values.tolist()
            )
        model = Model("onnx-int8", fingerprint, DIMENSION, 1000)
        return scores("", tasks, model=model, dataset_digest="data-1", scorer="1", prompts="prompts-1")

    return make


class Line:
    """Registers models that get better with their number, and judges them as the flow does."""

    def __init__(self, run: Run, make_scores: MakeScores, config: Promotion) -> None:
        self.run, self.tracking, self.config = run, run.tracking, config
        self.make_scores = make_scores
        models._create_model(run.tracking)

    def scores(self, number: int) -> Scores:
        return self.make_scores(f"model-{number}", 0.4 + 0.1 * number)

    def register(self, number: int) -> str:
        tags = {"fingerprint": f"bundle-{number}", "model_fingerprint": f"model-{number}"}
        return str(self.tracking.client.create_model_version(models.MODEL, "file:///none", tags=tags).version)

    def verdicts(self, number: int, champion: int | None) -> tuple[Verdict, Verdict]:
        against = self.scores(champion) if champion else None
        quality = compare(self.scores(number), against, self.config, TASKS)
        beside = f"bundle-{champion}" if champion else None
        return quality, infrastructure(f"bundle-{number}", CHECKS | SLOWDOWN, self.config, beside)

    def promote(self, number: int, champion: int | None) -> dict[str, str | None]:
        version = self.register(number)
        promotion.nominate(self.tracking, version)
        return promotion.promote(self.tracking, version, *self.verdicts(number, champion))


@pytest.fixture
def line(run: Run, make_scores: MakeScores, promotion_config: Promotion) -> Line:
    return Line(run, make_scores, promotion_config)


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[[str], Path]:
    def make(fingerprint: str) -> Path:
        bundle = tmp_path / "bundles" / fingerprint
        version = bundle / "version"
        version.mkdir(parents=True)
        write_graphs(version)
        shutil.copy(REPOSITORY / "components" / "embedder" / "runtime.py", version / "runtime.py")
        (bundle / "bundle.json").write_text(json.dumps({"dimension": DIMENSION, "fingerprint": fingerprint}))
        (bundle / "config.pbtxt").write_text('name: "embedder"\n')
        return bundle

    return make


def write_graphs(version: Path) -> None:
    generator = np.random.default_rng(0)
    table = numpy_helper.from_array(generator.normal(size=(len(WORDS), DIMENSION)).astype(np.float32), "table")
    weight = numpy_helper.from_array(generator.normal(size=(3, DIMENSION)).astype(np.float32), "weight")
    last = numpy_helper.from_array(np.array([2], np.int64), "last")
    text = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["words", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sentence_embedding"], keepdims=0),
    ]
    image = [
        helper.make_node("ReduceMean", ["pixel_values", "sides"], ["colour"], keepdims=0),
        helper.make_node("MatMul", ["colour", "weight"], ["image_embedding"]),
    ]
    one, sides = (
        numpy_helper.from_array(np.array(axes, np.int64), name) for name, axes in (("one", [1]), ("sides", [2, 3]))
    )
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"]) for n in ("input_ids", "attention_mask")]
    pixels = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 8, 8])]
    for name, nodes, inputs, output, constants in (
        ("text", text, ids, "sentence_embedding", [table, last, one]),
        ("image", image, pixels, "image_embedding", [weight, sides]),
    ):
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", DIMENSION])]
        graph = helper.make_graph(nodes, name, inputs, outputs, constants)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10),
            version / f"{name}.onnx",
        )
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(version / "tokenizer.json"))
    description = {
        "dimension": DIMENSION,
        "image_size": 8,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "max_tokens": 16,
        "instruction_weight": 0.0,
        "matryoshka_dimensions": [2, 4],
    }
    (version / "embedder.json").write_text(json.dumps(description))

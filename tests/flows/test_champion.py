"""The comparison with the champion: scored by the code in its own bundle, under the identity it was registered by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from components.config import PARAMETERS, Config, read
from components.embedder import OnnxEmbedder, runtime
from components.evaluation import evaluate, read_suite
from components.registry import Verdict, models, tracking
from components.scores import Model, Scores
from components.workspace import DATA, SCORES, VECTORS
from flows.retrain import compare_with_champion
from tests.evaluation.conftest import row, write_data
from tests.registry.conftest import DIMENSION, WORDS, write_graphs

REPOSITORY = Path(__file__).parents[2]
CANDIDATES = WORDS[1:]
NEGATED_QUERIES = """
encode = Runtime.encode
def negated(self, texts, images, instructions):
    signs = np.array([[-1.0 if " " in text else 1.0] for text in texts], np.float32)
    return signs * encode(self, texts, images, instructions)
Runtime.encode = negated
"""


def make_bundle(folder: Path, name: str, more_code: str) -> Path:
    """Returns a bundle whose `runtime.py` is ours and more; its graphs are the same ones each time."""
    version = folder / name / "version"
    version.mkdir(parents=True)
    write_graphs(version)
    (version / "runtime.py").write_text(Path(runtime.__file__).read_text(encoding="utf-8") + more_code)
    (folder / name / "bundle.json").write_text(json.dumps({"dimension": DIMENSION, "fingerprint": name}))
    return folder / name


@pytest.fixture
def config() -> Config:
    return read(REPOSITORY / PARAMETERS)


@pytest.fixture
def challenger(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scores:
    """The scores of a challenger with the same graphs, in a workspace where a query is a candidate's word repeated."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    rows = [
        row(" ".join([word] * times), CANDIDATES, [place], qry_inst="")
        for times in range(2, 12)
        for place, word in enumerate(CANDIDATES)
    ]
    write_data(DATA, {"Words": rows})
    graphs = make_bundle(tmp_path, "challenger", "") / "version"
    model = Model("onnx-int8", "the same weights", DIMENSION, None)
    scores = evaluate(OnnxEmbedder(graphs), model, read_suite(DATA), config.evaluation, VECTORS, lambda _: None)
    scores.write(SCORES / f"onnx-{config.serving.variant}.json")
    assert scores.aggregates["overall"] == 1.0
    return scores


def test_a_champion_is_scored_by_the_code_in_its_bundle(config: Config, challenger: Scores, tmp_path: Path) -> None:
    tracked = tracking.prepare(tmp_path)
    round_ = tracking.start_round(tracked, {}, {})

    def compared(name: str, more_code: str) -> Verdict:
        version = models.register(round_, make_bundle(tmp_path / "bundles", name, more_code), challenger, {})
        assert models.facts(tracked, version)["model_fingerprint"] == "the same weights"
        verdict: Verdict = compare_with_champion.fn(config, tracked, version)
        assert verdict.against == "the same weights", "promotion looks for it by this"
        return verdict

    for name, more_code, score in (("ours", "", 1.0), ("edited", NEGATED_QUERIES, 0.0), ("again", "", 1.0)):
        overall, *_ = compared(name, more_code).table
        assert (overall["challenger"], overall["champion"]) == (1.0, score), name
    shutil.rmtree(VECTORS)
    assert compared("anew", NEGATED_QUERIES).table[0]["champion"] == 0.0

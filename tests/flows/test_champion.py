"""The comparison with the champion: scored by the code in its own bundle, under the identity it was registered by."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from components import lineage
from components.config import PARAMETERS, Config, read
from components.corpus import TRAIN_SCHEMA
from components.corpus.layout import write_rows
from components.embedder import OnnxEmbedder, runtime
from components.errors import EmbedlineError, UsageError
from components.evaluation import evaluate, read_suite
from components.registry import Verdict, ancestry, models, tracking
from components.scores import Model, Scores
from components.workspace import DATA, SCORES, VECTORS
from flows.retrain import compare_with_champion, write_lineage
from flows.transfer import judge
from serving.asking import search_with
from tests.evaluation.conftest import row, write_data
from tests.registry.conftest import DIMENSION, WORDS, write_graphs

pytestmark = pytest.mark.slow  # champions that are trained, packaged and scored

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


def test_a_champion_whose_scores_are_not_recorded_answers_the_present_data_before_a_transfer(
    config: Config, challenger: Scores, tmp_path: Path
) -> None:
    tracked = tracking.prepare(tmp_path)
    bundle = make_bundle(tmp_path / "bundles", "edited", NEGATED_QUERIES)
    version = models.register(tracking.start_round(tracked, {}, {}), bundle, challenger, {})
    verdict = judge(config, tracked, challenger, version)
    assert (verdict.word, verdict.table[0]["champion"], verdict.against) == ("better", 0.0, "the same weights")
    with pytest.raises(UsageError, match="champion 1 has no scores on the data set other data"):
        judge(config, tracked, dataclasses.replace(challenger, dataset_digest="other data"), version)
    shutil.rmtree(DATA)
    with pytest.raises(UsageError, match="champion 1 has no scores on the data set"):
        judge(config, tracked, challenger, version)


def test_old_versions_are_evaluated_compared_and_searched_by_their_own_code(
    config: Config, challenger: Scores, tmp_path: Path
) -> None:
    shutil.copy(REPOSITORY / PARAMETERS, tmp_path)
    tracked = tracking.prepare(tmp_path)
    round_ = tracking.start_round(tracked, {}, {})
    for name, more_code in (("ours", ""), ("edited", NEGATED_QUERIES)):
        models.register(round_, make_bundle(tmp_path / "bundles", name, more_code), challenger, {})
    models.set_role(tracked, "champion", "1")
    first, second, champion = (f"models:/{models.MODEL}{which}" for which in ("/1", "/2", "@champion"))

    def answer(*arguments: str) -> Any:
        done = CliRunner().invoke(app, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    assert answer("evaluate", champion)["overall"] == 1.0 and answer("evaluate", second)["overall"] == 0.0
    compared = answer("compare", second, champion)
    assert compared["verdict"].startswith(f"{models.MODEL}/1 is better: +100.0 points")
    assert compared["overall"]["ours"] == 0.0 and compared["overall"]["theirs"] == 1.0

    kept = tracked.root / models.VERSIONS / "2" / "version" / "runtime.py"
    kept.write_text(kept.read_text(encoding="utf-8").replace(NEGATED_QUERIES, ""), encoding="utf-8")
    shutil.rmtree(VECTORS)
    assert answer("evaluate", second)["overall"] == 0.0, "what was edited here is fetched again"
    stored = Path(tracked.client.get_model_version_download_uri(models.MODEL, "1").removeprefix("file://"))
    next(stored.rglob("text.onnx")).write_bytes(b"damaged")
    assert answer("evaluate", first)["overall"] == 1.0, "the bytes that were registered are still here"
    shutil.rmtree(tracked.root / models.VERSIONS)
    damaged = CliRunner().invoke(app, ["evaluate", first])
    assert isinstance(damaged.exception, EmbedlineError) and "is damaged" in damaged.exception.problem


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("models:/embedline-embedder/7", "has no version 7"),
        ("models:/embedline-embedder@champion", "no version of embedline-embedder is champion"),
        ("models:/other/1", "there is no model other"),
        ("models:/embedline-embedder", "names no version"),
    ],
)
def test_a_reference_to_no_version_says_what_there_is(reference: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        models.resolve(tracking.prepare(tmp_path), reference)


def test_any_model_searches_without_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    empty = dict.fromkeys(("qry_inst", "qry", "pos_inst", "pos_image_path", "neg_text", "neg_image_path"), "")
    rows = []
    for colour in ("red", "green", "blue"):
        path = DATA / "images" / f"{colour}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 12), colour).save(path)
        rows.append(empty | {"qry_image_path": f"{colour}.png", "pos_text": f"the colour {colour}"})
    write_data(DATA, {"Words": [row("cat cat", CANDIDATES, [0], qry_inst="")]})
    write_rows(DATA / "train" / "Names.parquet", TRAIN_SCHEMA, rows)
    bundle = make_bundle(tmp_path / "bundles", "ours", "")
    image = DATA / "images" / "green.png"
    found = search_with(tmp_path / "home", str(bundle / "version"), None, image, None, 2)
    assert Path(found.hits[0].image_path).name == "green.png" and found.searched == 3
    assert found.hits[0].text == "the colour green" and found.hits[0].score == pytest.approx(1, abs=1e-5)
    image.write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"green.png: the image cannot be decoded"):
        search_with(tmp_path / "home", str(bundle / "version"), None, image, None, 2)


@pytest.mark.system("git")
@pytest.mark.parametrize("dirty", [False, True])
def test_a_round_keeps_its_lock_file_and_how_its_code_differed(
    dirty: bool, config: Config, challenger: Scores, tmp_path: Path
) -> None:
    shutil.copy(REPOSITORY / PARAMETERS, tmp_path)
    (tmp_path / "code.py").write_text("committed\n")
    lineage.start_repository(Path(), print)
    lineage.add(Path())
    made = {"outs": [{"path": "artifacts/student", "md5": "51" * 16, "size": 1}]}
    (tmp_path / lineage.LOCK_FILE).write_text(yaml.safe_dump({"stages": {"distill": made}}))
    if dirty:
        (tmp_path / "code.py").write_text("tried out\n")
    tracked = tracking.prepare(tmp_path)
    round_ = tracking.start_round(tracked, {}, {"data": lineage.data_hash(Path())})
    write_lineage(config, round_, "7")
    kept = {each.path for each in tracked.client.list_artifacts(round_.run_id)}
    assert kept == {lineage.LINEAGE, lineage.LOCK_FILE, *([ancestry.DIFFERENCE] if dirty else [])}
    if dirty:
        difference = tracked.client.download_artifacts(round_.run_id, ancestry.DIFFERENCE, str(tmp_path))
        assert "+tried out" in Path(difference).read_text()
    tags = tracked.client.get_run(round_.run_id).data.tags
    assert (tags["version"], tags["git_dirty"]) == ("7", str(dirty).lower())
    (found,) = ancestry.trace(ancestry.read(tracked, [], None), "51" * 16).led_to
    assert found.name == round_.run_id

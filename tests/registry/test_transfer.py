"""Two workspaces on one MLflow, dev and prod: what passed in dev is copied, tried on a server, and judged again."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from components.config import PARAMETERS, read
from components.embedder import fingerprint, runtime
from components.embedder.runtime import Runtime
from components.errors import EmbedlineError, Refused, UsageError
from components.export.bundle import SERVER_FILE, Bundle, served_fingerprint
from components.files import folder_sha256
from components.registry import (
    approval,
    compare,
    evidence,
    infrastructure,
    ledger,
    models,
    promotion,
    retention,
    tracking,
)
from components.registry.config import Promotion
from components.registry.evidence import Evidence
from components.registry.tracking import Tracking
from components.scores import SCORER
from flows.transfer import Transferred, transfer
from tests.registry.conftest import CHECKS, DIMENSION, SLOWDOWN, TASKS, MakeScores, write_graphs
from tests.serving.conftest import CONFIG, TRITON_MODEL

pytestmark = pytest.mark.slow  # trials in two environments

ROOT = Path(__file__).parents[2]
DATA_HASH = "a" * 32


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle that a server loads, with two examples."""
    folder = tmp_path_factory.mktemp("bundle")
    version = folder / "version"
    version.mkdir()
    write_graphs(version)
    shutil.copy(str(runtime.__file__), version / "runtime.py")
    shutil.copy(TRITON_MODEL, version / "model.py")
    (folder / "config.pbtxt").write_text(CONFIG.format())
    texts = ["a sad cat", "happy"]
    np.save(folder / "examples.npy", Runtime(version, threads=1).encode(texts, [None] * 2, [None] * 2))
    examples = [{"text": text, "image": None, "instruction": None} for text in texts]
    description = Bundle("embedder", DIMENSION, "fp32", "", "", "data-1", examples, "examples.npy")
    (folder / "bundle.json").write_text(json.dumps(asdict(description)))
    return folder


class Environments:
    """The workspaces of dev, with versions that passed there, and of prod, which has nothing yet."""

    def __init__(self, dev: Tracking, prod: Path, bundle: Path, make_scores: MakeScores, config: Promotion) -> None:
        self.dev, self.root, self.bundle, self.make_scores, self.config = dev, prod, bundle, make_scores, config
        self.round = tracking.start_round(dev, {"teacher": {"steps": 7}}, {"data": DATA_HASH, "git_commit": "c0ffee"})
        self.configure()
        self.prod = tracking.prepare(prod)

    def configure(self, **changes: Any) -> None:
        content = yaml.safe_load((ROOT / PARAMETERS).read_text(encoding="utf-8"))
        content["registry"]["environment"] = "prod"
        content["storage"]["tracking_uri"] = self.dev.uri
        content["promotion"] |= {"floors": {"overall": 0.0}, "max_slowdown": None, "max_latency_ms": 1000.0} | changes
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / PARAMETERS).write_text(yaml.safe_dump(content), encoding="utf-8")

    def register(self, share: float, **scored: Any) -> tuple[str, Evidence]:
        """Registers a version in dev that answers this share of the queries; returns it with evidence that passes."""
        place = self.root.parent / "made" / str(len(models.versions(self.dev)))
        shutil.copytree(self.bundle, place)
        with (place / "version" / "runtime.py").open("a") as file:
            file.write(f"# {share}\n")
        scores = replace(self.make_scores(describe(place), share), **{"scorer": SCORER} | scored)
        version = models.register(self.round, place, scores, {"data": DATA_HASH, "git_commit": "c0ffee"})
        quality = compare(scores, None, self.config, TASKS)
        subject = models.facts(self.dev, version)["fingerprint"]
        return version, Evidence(scores, quality, infrastructure(subject, CHECKS | SLOWDOWN, self.config))

    def passed(self, share: float, **scored: Any) -> str:
        version, found = self.register(share, **scored)
        evidence.keep(self.dev, version, found)
        return version

    def transfer(self, version: str) -> Transferred:
        return transfer(version, "dev", read(Path(PARAMETERS)))

    def stored(self, version: str) -> Path:
        """Where MLflow keeps the version's bundle of dev."""
        location = models.location(self.dev, version).removeprefix("file://")
        (found,) = Path(location, "artifacts").iterdir()
        return found


def describe(place: Path) -> str:
    """Writes into `bundle.json` what the bundle's bytes are; returns the fingerprint of the model in them."""
    scored = fingerprint(place / "version", without=place / "version" / SERVER_FILE)
    description = json.loads((place / "bundle.json").read_text())
    description |= {"fingerprint": served_fingerprint(place), "model_fingerprint": scored}
    (place / "bundle.json").write_text(json.dumps(description))
    return scored


@pytest.fixture
def environments(
    server: Tracking, bundle: Path, tmp_path: Path, make_scores: MakeScores, promotion_config: Promotion,
    monkeypatch: pytest.MonkeyPatch,
) -> Environments:  # fmt: skip
    made = Environments(server, tmp_path / "prod", bundle, make_scores, promotion_config)
    monkeypatch.chdir(made.root)
    return made


def test_what_passed_in_dev_is_tried_again_in_prod_and_promoted_there(environments: Environments) -> None:
    first, better = environments.passed(0.5), environments.passed(0.8)
    environments.dev.client.update_model_version(models.MODEL, better, "its card")
    said = CliRunner().invoke(app, ["transfer", better, "--from", "dev", "--json"], catch_exceptions=False)
    assert json.loads(said.stdout)["roles"] == {"champion": "1", "challenger": None, "previous": None}
    dev, prod = environments.dev, environments.prod
    assert (dev.model, prod.model) == ("embedline-embedder", "embedline-embedder-prod")
    assert models.role(dev, "champion") is None and promotion.history(dev) == []
    done = promotion.history(prod)[-1]
    assert (done.action, done.version) == ("promote", "1") and done.reason.startswith("from dev version 2: ")
    assert prod.ledger == environments.root / ".embedline" / "prod-ledger.jsonl" and len(ledger.lines(prod.ledger)) == 4

    tags, original = models.facts(prod, "1"), models.facts(dev, better)
    assert (tags["from"], tags["data"], tags["git_commit"]) == ("dev version 2", DATA_HASH, "c0ffee")
    assert all(tags[name] == original[name] for name in ("fingerprint", "model_fingerprint", "bundle_sha256"))
    assert models.location(prod, "1") != models.location(dev, better), "it has bytes of its own"
    assert prod.client.get_model_version(prod.model, "1").description == "its card"
    copied = prod.client.get_run(models.round_of(prod, "1")).data
    assert copied.params["teacher.steps"] == "7" and copied.tags["version"] == "1"
    assert retention.not_kept(prod, ["1"]) == [] == retention.not_kept(dev, [first, better]), "neither prunes the other"
    kept = evidence.require(prod, "1")
    assert kept.scores == evidence.require(dev, better).scores
    measured = {row["name"]: row["value"] for row in kept.infrastructure.table}
    assert float(measured["latency_ms"]) != CHECKS["latency_ms"] and float(measured["server_cosine"]) > 0.999

    assert environments.transfer(better).roles["champion"] == "1" and len(promotion.history(prod)) == 4
    with pytest.raises(Refused, match=r"worse: a difference of -0\.3"):
        environments.transfer(first)
    assert list(models.versions(prod)) == ["1"], "what is worse than prod's champion is not even copied"


def test_what_did_not_pass_or_was_sent_away_in_dev_is_refused(environments: Environments) -> None:
    never, found = environments.register(0.5)
    with pytest.raises(Refused, match=f"version {never} of embedline-embedder has not passed both gates"):
        environments.transfer(never)
    failed = replace(found, infrastructure=replace(found.infrastructure, reasons=("too slow",)))
    with pytest.raises(Refused, match="too slow"):
        evidence.keep(environments.dev, never, failed)
    evidence.keep(environments.dev, never, found)
    promotion.nominate(environments.dev, never)
    promotion.reject(environments.dev, never, "wrong answers for flags")
    with pytest.raises(Refused, match="or was rolled back or rejected"):
        environments.transfer(never)
    with pytest.raises(UsageError, match="has no version 9"):
        environments.transfer("9")
    assert models.versions(environments.prod) == {} and promotion.history(environments.prod) == []


def test_changed_bytes_are_refused_whatever_else_was_changed_with_them(environments: Environments) -> None:
    version = environments.passed(0.5)
    stored = environments.stored(version)
    with (stored / "version" / "runtime.py").open("a") as file:
        file.write("# another line\n")
    with pytest.raises(EmbedlineError, match="its files are not those that were registered"):
        environments.transfer(version)
    set_tag = environments.dev.client.set_model_version_tag
    set_tag(models.MODEL, version, "bundle_sha256", folder_sha256(stored))
    with pytest.raises(Refused, match="holds another model than the one that was scored"):
        environments.transfer(version)
    scored = describe(stored)
    for name, value in {
        "bundle_sha256": folder_sha256(stored), "model_fingerprint": scored, "fingerprint": served_fingerprint(stored),
    }.items():  # fmt: skip
        set_tag(models.MODEL, version, name, value)
    with pytest.raises(EmbedlineError, match="the evidence about version 1 of embedline-embedder is about another"):
        environments.transfer(version)
    assert models.versions(environments.prod) == {}


def test_evidence_that_was_edited_lets_nothing_in(environments: Environments) -> None:
    version = environments.passed(0.5)
    run = environments.dev.client.get_run(environments.round.run_id)
    scores = Path(run.info.artifact_uri.removeprefix("file://"), "evidence", version, "scores.json")
    scores.write_text(scores.read_text().replace("data-1", "data-2"))
    with pytest.raises(EmbedlineError, match="the evidence about version 1 of embedline-embedder was changed"):
        environments.transfer(version)
    scores.unlink()
    with pytest.raises(EmbedlineError, match="was changed"):
        environments.transfer(version)


def test_a_copy_that_fails_here_is_refused_and_one_that_passes_waits_where_a_person_decides(
    environments: Environments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a server says is given here; the other test has a real one."""
    environments.configure(approval="required")
    first, other = environments.passed(0.5), environments.passed(0.8, dataset_digest="other data")
    monkeypatch.setattr("flows.retrain.measure", lambda *_: CHECKS | {"server_cosine": 0.5, "parity_cosine": 0.5})
    with pytest.raises(Refused, match=r"server_cosine: 0\.5 is below"):
        environments.transfer(first)
    assert models.roles(environments.prod) == {"champion": None, "challenger": "1", "previous": None}
    assert evidence.find(environments.prod, "1") is None and approval.waiting(environments.prod) == []
    monkeypatch.setattr("flows.retrain.measure", lambda *_: CHECKS)
    done = environments.transfer(first)
    assert done.roles == {"champion": None, "challenger": "1", "previous": None}
    assert approval.waiting(environments.prod) == ["1"]
    assert approval.approve(environments.prod, "1", "Ada", "flags are right")["champion"] == "1"
    with pytest.raises(UsageError, match="champion 1 has no scores on the data set other data") as raised:
        environments.transfer(other)
    assert "`dvc pull data` fetches it" in raised.value.remedy
    assert list(models.versions(environments.prod)) == ["1"]


def test_a_workspace_is_one_environment_and_dev_keeps_the_plain_names(environments: Environments) -> None:
    with pytest.raises(UsageError, match="staging is no other environment"):
        transfer("1", "staging", read(Path(PARAMETERS)))
    with pytest.raises(UsageError, match="prod is no other environment"):
        transfer("1", "prod", read(Path(PARAMETERS)))
    assert environments.dev.ledger == environments.dev.root / ".embedline" / "ledger.jsonl"
    environments.dev.ledger.write_text("")
    shutil.copy(environments.root / PARAMETERS, environments.dev.root / PARAMETERS)
    with pytest.raises(UsageError, match=r"registry.environment: prod, but this workspace is another one's: .*ledger"):
        tracking.prepare(environments.dev.root)

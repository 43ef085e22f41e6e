"""A workspace under real git and DVC, with real MLflow: a line of one stage, its rounds, its promotions."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from components import lineage
from components.lineage import Lineage
from components.registry import ancestry, models, promotion, tracking
from components.registry.tracking import Tracking
from components.scores import SCORER, Model, Scores
from components.workspace import BUNDLE, SCORES
from tests.registry.made_up import verdicts

PIPELINE = """
stages:
  train:
    cmd: python train.py
    deps: [data, train.py]
    params: [train]
    outs: [artifacts/bundle, artifacts/scores]
"""
TRAIN = """
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import yaml

from components.scores import SCORER, Model, Scores

seed = yaml.safe_load(Path("params.yaml").read_text())["train"]["seed"]
rows = Path("data/rows.txt").read_text()
weights = np.random.default_rng([seed, len(rows)]).normal(size=20_000)
version = Path("artifacts/bundle/version")
version.mkdir(parents=True)
(version / "weights.bin").write_bytes(weights.tobytes())
fingerprint = sha256(weights.tobytes()).hexdigest()
(version.parent / "bundle.json").write_text(json.dumps({"dimension": 4, "fingerprint": fingerprint}))
model = Model("student", f"model-{fingerprint}", 4, None)
overall = float(np.random.default_rng(seed).uniform())
scores = Scores(model, "none", "0", SCORER, "0", {}, [], [], {"overall": overall}, {})
scores.write(Path("artifacts/scores/student.json"))
"""


class Rounds:
    """Makes rounds as the flow does: the stage by DVC, then the version, what is kept of the round, the roles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tracked: Tracking = tracking.prepare(root)

    def change(self, **sections: object) -> None:
        path = self.root / "params.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | sections))

    def commit(self) -> None:
        """Commits the code, and not what DVC records."""
        author = ("-c", "user.name=t", "-c", "user.email=t@t")
        for arguments in (("add", "params.yaml", "train.py"), (*author, "commit", "-qm", "a change", "--allow-empty")):
            subprocess.run(["git", *arguments], cwd=self.root, check=True)

    def register(self, seed: int) -> str:
        """Runs a round with this seed up to the registered version; returns its number."""
        self.change(train={"seed": seed})
        self.commit()
        lineage.reproduce(self.root, "train")
        return self.log()

    def log(self) -> str:
        """Registers what the line has made, with all that a round keeps; returns the version's number."""
        state = lineage.git_state(self.root)
        tags = {"data": lineage.data_hash(self.root), "git_commit": str(state.commit)}
        round_ = tracking.start_round(self.tracked, {}, tags)
        scores = Scores.read(self.root / SCORES / "student.json")
        version = models.register(round_, self.root / BUNDLE, scores, tags)
        found: Lineage = replace(lineage.collect(self.root, {}, round_.run_id), model_version=version)
        found.write(self.root / "artifacts" / lineage.LINEAGE)
        round_.log_file(self.root / "artifacts" / lineage.LINEAGE)
        round_.log_file(self.root / lineage.LOCK_FILE)
        if found.git_dirty:
            (self.root / ".embedline" / ancestry.DIFFERENCE).write_bytes(lineage.uncommitted(self.root))
            round_.log_file(self.root / ".embedline" / ancestry.DIFFERENCE)
        round_.tag(
            ancestry.round_tags(version, found.git_dirty, str(found.dvc_lock_sha256), lineage.outputs(self.root))
        )
        tracking.end_round(round_, succeeded=True)
        return version

    def register_made_up(self, seed: int) -> str:
        """Registers a bundle of this seed that no line has made: what does not look at DVC need not wait for it."""
        bundle = self.root / ".embedline" / "made_up"
        shutil.rmtree(bundle, ignore_errors=True)
        (bundle / "version").mkdir(parents=True)
        (bundle / "version" / "weights.bin").write_bytes(seed.to_bytes(4, "big") * 10_000)
        (bundle / "bundle.json").write_text(json.dumps({"dimension": 4, "fingerprint": f"bundle-{seed}"}))
        round_ = tracking.start_round(self.tracked, {}, {})
        model = Model("student", f"model-{seed}", 4, None)
        scores = Scores(model, "none", "0", SCORER, "0", {}, [], [], {"overall": seed / 100}, {})
        version = models.register(round_, bundle, scores, {})
        tracking.end_round(round_, succeeded=True)
        return version

    def promote(self, version: str) -> str:
        promotion.nominate(self.tracked, version)
        promotion.promote(self.tracked, version, *verdicts(self.tracked, version))
        return version

    def bundle(self, version: str, to: Path) -> bytes:
        """The weights of a version, fetched anew from the registry."""
        shutil.rmtree(to, ignore_errors=True)
        return (models.download(self.tracked, version, to) / "version" / "weights.bin").read_bytes()

    def cached(self) -> set[str]:
        return {f"{file.parent.name}{file.name}" for file in (self.root / ".dvc/cache/files/md5").glob("??/*")}

    def records(self) -> list[dict[str, object]]:
        path = self.root / ".embedline" / "ledger.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace that every other is a copy of: git, DVC and MLflow take seconds to set up."""
    root = tmp_path_factory.mktemp("template")
    (root / "params.yaml").write_text("train: {seed: 0}\n")
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "train.py").write_text(TRAIN)
    (root / "data").mkdir()
    (root / "data" / "rows.txt").write_text("one\n")
    lineage.start_repository(root, print)
    lineage.add(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.prepare(root)
    return root


@pytest.fixture
def rounds(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rounds]:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "workspace"
    shutil.copytree(template, root)
    shutil.rmtree(root / ".embedline")
    (root / ".embedline").mkdir()
    (root / ".embedline" / ".gitignore").write_text("*\n")
    shutil.copy(template / ".embedline" / "mlflow.db", root / ".embedline" / "mlflow.db")
    yield Rounds(root)

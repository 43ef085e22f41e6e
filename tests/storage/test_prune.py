"""What `prune` removes and what stays, in a workspace with a real DVC cache and a real MLflow."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from cli.main import app
from components import lineage
from components.errors import Refused, UsageError
from components.lineage import cache
from components.registry import models, promotion
from components.stages.prune import Served, lock_files, look, prune
from components.storage import Storage
from tests.storage.conftest import Rounds

pytestmark = [pytest.mark.system("git"), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


def pruned(rounds: Rounds, champions: int = 1) -> dict[str, str]:
    """Prunes; returns why each version stayed."""
    return dict(prune(rounds.root, Storage(keep_champions=champions), Served).kept)


def test_what_is_kept_can_be_fetched_and_gone_back_to_and_the_rest_is_gone(rounds: Rounds, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        rounds.promote(rounds.register(seed))
    refused = rounds.register(4)
    rounds.change(train={"seed": 3})
    lineage.reproduce(rounds.root, "train")
    weights = {version: rounds.bundle(version, tmp_path / "fetched") for version in ("1", "2", "3", refused)}
    before = rounds.cached()
    locks = {version: _lock(rounds, version) for version in weights}

    foreseen = look(rounds.root, Storage(keep_champions=1), Served())
    assert rounds.cached() == before and rounds.bundle("1", tmp_path / "fetched") == weights["1"], (
        "a look changes nothing"
    )
    assert pruned(rounds) == dict(foreseen.kept) == {"3": "is champion", "2": "is previous"}

    assert {version: rounds.bundle(version, tmp_path / "fetched") for version in "23"} == {v: weights[v] for v in "23"}
    kept_hashes = {value for version in "23" for value in cache.hashes(locks[version])} & before
    assert kept_hashes <= rounds.cached() < before
    gone = {value for value in cache.hashes(locks[refused]) - cache.hashes(locks["3"])} & before
    assert gone and not gone & rounds.cached()
    for version in ("1", refused):
        assert models.stored_bytes(rounds.tracked, models.location(rounds.tracked, version)) == 0
        with pytest.raises(UsageError, match=rf"the bundle of version {version} was pruned"):
            models.download(rounds.tracked, version, tmp_path / "fetched")
    with pytest.raises(UsageError, match="was pruned"):
        promotion.rollback(rounds.tracked, to="1")
    with pytest.raises(UsageError, match="was pruned"):
        promotion.nominate(rounds.tracked, refused)
    assert promotion.rollback(rounds.tracked)["champion"] == "2"
    assert look(rounds.root, Storage(keep_champions=1), Served()).unneeded == ()


def _lock(rounds: Rounds, version: str) -> str:
    (text,) = lock_files(rounds.tracked, {version})
    return text


def test_what_serves_waits_or_is_named_elsewhere_stays(rounds: Rounds) -> None:
    versions = [rounds.register_made_up(seed) for seed in (1, 2, 3, 4, 5)]
    promotion.nominate(rounds.tracked, versions[0])
    rounds.tracked.client.set_registered_model_alias(models.MODEL, "demo", versions[1])
    rounds.tracked.client.copy_model_version(f"models:/{models.MODEL}/{versions[2]}", "another")
    rounds.tracked.client.update_run(models.versions(rounds.tracked)[versions[3]]["round"], status="RUNNING")
    found = look(rounds.root, Storage(), Served({int(versions[4])}))
    assert found.kept == {
        versions[0]: "is challenger",
        versions[1]: "is demo",
        versions[2]: "is version 1 of another",
        versions[3]: "a round makes it",
        versions[4]: "is loaded",
    }
    assert not any(each.kind == "bundle" for each in found.unneeded)


def test_a_bundle_that_comes_again_gets_a_new_number_unless_it_was_rolled_back(rounds: Rounds) -> None:
    rounds.promote(rounds.register_made_up(1))
    bad = rounds.promote(rounds.register_made_up(2))
    promotion.rollback(rounds.tracked, "wrong answers")
    refused = rounds.register_made_up(3)
    assert pruned(rounds, champions=0) == {"1": "is champion"}
    again = rounds.register_made_up(3)
    assert again not in (bad, refused) and promotion.nominate(rounds.tracked, again)["challenger"] == again
    with pytest.raises(Refused, match=r"was rolled back on .*: wrong answers"):
        promotion.nominate(rounds.tracked, rounds.register_made_up(2))


def test_a_registration_that_was_killed_and_old_checkpoints_go(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds.promote(rounds.register_made_up(1))
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.create_model_version", lambda *_, **__: (_ for _ in ()).throw(KeyError()))
        with pytest.raises(KeyError):
            rounds.register_made_up(2)
    (killed,) = rounds.tracked.client.search_runs([rounds.tracked.experiment_id], "attributes.status = 'RUNNING'")
    assert not any(each.kind == "bundle" for each in look(rounds.root, Storage(), Served()).unneeded), "it may go on"
    rounds.tracked.client.set_terminated(killed.info.run_id, "KILLED")
    for name in ("old", "new"):
        (rounds.root / "checkpoints" / name).mkdir(parents=True)
        (rounds.root / "checkpoints" / name / "checkpoint.pt").write_bytes(b"1234")
    week_ago = time.time() - 8 * 86_400
    os.utime(rounds.root / "checkpoints" / "old" / "checkpoint.pt", (week_ago, week_ago))
    pruned(rounds)
    assert [each.name for each in (rounds.root / "checkpoints").iterdir()] == ["new"]
    logged = rounds.tracked.client.search_logged_models([rounds.tracked.experiment_id])
    assert [each.artifact_location for each in logged] == [models.location(rounds.tracked, "1")]


def test_nothing_goes_while_a_round_runs_or_without_a_yes(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds.promote(rounds.register_made_up(1))
    refused = rounds.register_made_up(2)
    (rounds.root / "params.yaml").write_text((ROOT / "params.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.chdir(rounds.root)
    copies = Path(".embedline", "model_repository", "embedder")
    for version in ("1", refused):
        (copies / version).mkdir(parents=True)
    asked = CliRunner().invoke(app, ["prune"], input="no\n")
    assert isinstance(asked.exception, UsageError) and "nothing was deleted" in asked.exception.problem
    said = json.loads(CliRunner().invoke(app, ["prune", "--dry-run", "--json"]).stdout)
    assert said["kept"] == {"1": "is champion"} and said["removed"] is False and said["bytes"] > 40_000
    assert f"version {refused}" in {each["name"] for each in said["unneeded"]}
    with FileLock(rounds.root / ".embedline" / "lock"):
        held = CliRunner().invoke(app, ["prune", "--yes"])
    assert isinstance(held.exception, UsageError) and "one run at a time" in held.exception.problem
    assert models.download(rounds.tracked, refused, rounds.root / "fetched").is_dir()
    done = json.loads(CliRunner().invoke(app, ["prune", "--yes", "--json"]).stdout)
    assert [copy.name for copy in copies.iterdir()] == ["1"]
    assert done["removed"] is True and done["unneeded"] == said["unneeded"]

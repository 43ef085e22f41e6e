"""MLflow and Prefect on a real PostgreSQL; bundles, DVC's remote and the ledger's mirror on a server that speaks S3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import psycopg2
import pytest
from moto.server import ThreadedMotoServer

from components import lineage
from components.errors import EmbedlineError, UsageError
from components.files import folder_sha256
from components.registry import models, promotion, tracking
from components.stages.prune import Served, prune
from components.storage import Remote, Storage
from tests.storage import postgresql
from tests.storage.conftest import Rounds

pytestmark = [pytest.mark.slow, pytest.mark.system("git", "postgresql")]
BUCKET = "shared"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql.running() as address:
        yield f"postgresql://postgres@{address}/postgres"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "MLFLOW_S3_ENDPOINT_URL": url,
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield url
    server.stop()


def keys(prefix: str) -> set[str]:
    listed = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return {each["Key"] for each in listed.get("Contents", ())}


def test_a_round_is_shared_by_database_and_bucket(rounds: Rounds, database: str, endpoint: str, tmp_path: Path) -> None:
    remote = {"url": f"s3://{BUCKET}/dvc", "endpointurl": endpoint}
    rounds.change(
        storage={"remote": remote, "tracking_uri": database, "artifacts": f"s3://{BUCKET}/mlflow"},
        registry={"mirror": f"s3://{BUCKET}/ledger.jsonl"},
    )
    rounds.tracked = tracking.prepare(rounds.root)
    assert rounds.tracked.uri == database
    first, refused = rounds.promote(rounds.register(1)), rounds.register_made_up(2)
    weights = rounds.root / "artifacts" / "bundle" / "version" / "weights.bin"
    assert rounds.bundle(first, tmp_path / "fetched") == weights.read_bytes() and len(keys("mlflow/")) > 5
    ledger = (rounds.root / ".embedline" / "ledger.jsonl").read_bytes()
    mirrored = boto3.client("s3").get_object(Bucket=BUCKET, Key="ledger.jsonl")["Body"].read()
    assert mirrored == ledger and ledger.count(b"\n") == 4
    assert promotion.compare_with_mirror(rounds.tracked) == f"s3://{BUCKET}/ledger.jsonl"

    lineage.push(rounds.root, Remote.model_validate(remote))
    subprocess.run(["git", "add", "data.dvc", "dvc.lock"], cwd=rounds.root, check=True)
    rounds.commit()
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(rounds.root), str(clone)], check=True)
    (clone / ".embedline").mkdir()
    pulled = lineage.pull(clone, Remote.model_validate(remote))
    assert set(pulled) == {"data", "artifacts/bundle", "artifacts/scores"}
    for path in pulled:
        assert folder_sha256(clone / path) == folder_sha256(rounds.root / path)
    (clone / "data" / "rows.txt").write_text("edited\n")
    assert lineage.pull(clone, Remote.model_validate(remote)) == []
    assert (clone / "data" / "rows.txt").read_text() == "edited\n", "what is there is nobody's to replace"
    assert models.role(tracking.prepare(clone), "champion") == first

    stored = keys("mlflow/")
    prune(rounds.root, Storage(), Served)
    assert models.stored_bytes(rounds.tracked, models.location(rounds.tracked, refused)) == 0
    assert keys("mlflow/") < stored and rounds.bundle(first, tmp_path / "fetched") == weights.read_bytes()

    rounds.change(storage={"artifacts": f"s3://{BUCKET}/elsewhere", "tracking_uri": database})
    with pytest.raises(UsageError, match=f"this MLflow keeps them in s3://{BUCKET}/mlflow"):
        tracking.prepare(rounds.root)
    boto3.client("s3").put_object(Bucket=BUCKET, Key="ledger.jsonl", Body=mirrored[:-10])
    with pytest.raises(EmbedlineError, match="line 4 of the ledger is another one in the mirror"):
        promotion.compare_with_mirror(rounds.tracked)


FLOW = """
from prefect import flow

@flow(name="on PostgreSQL")
def nothing():
    return 7

assert nothing() == 7
"""


@pytest.mark.nightly
def test_prefect_keeps_its_runs_in_postgresql(database: str, tmp_path: Path) -> None:
    own = f"{database.removesuffix('/postgres')}/prefect"
    environment = os.environ | {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_API_DATABASE_CONNECTION_URL": own.replace("postgresql", "postgresql+asyncpg"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    connection = psycopg2.connect(database)
    connection.autocommit = True
    connection.cursor().execute("CREATE DATABASE prefect")
    connection.close()
    subprocess.run([sys.executable, "-c", FLOW], env=environment, cwd=tmp_path, check=True, timeout=200)
    with psycopg2.connect(own) as prefect, prefect.cursor() as cursor:
        cursor.execute("SELECT flow.name, flow_run.state_type FROM flow JOIN flow_run ON flow.id = flow_run.flow_id")
        assert cursor.fetchall() == [("on PostgreSQL", "COMPLETED")]

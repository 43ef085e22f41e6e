import base64
import io
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from components.embedder.runtime import Runtime
from components.errors import EmbedlineError, UsageError
from components.registry import models
from components.registry.tracking import Run, Tracking
from components.scores import Scores

MakeScores = Callable[..., Scores]
MakeBundle = Callable[[str], Path]


def test_a_bundle_is_registered_once(run: Run, make_bundle: MakeBundle, make_scores: MakeScores) -> None:
    bundle = make_bundle("aaa")
    tags = {"data_hash": "data.dir", "git_commit": "c0ffee", "flow_run": "flow-1"}
    first = models.register(run, bundle, make_scores("model-a"), tags)
    assert first == models.register(run, bundle, make_scores("model-a"), tags) == "1"
    assert models.register(run, make_bundle("bbb"), make_scores("model-b"), tags) == "2"
    facts = models.facts(run.tracking, "1")
    assert (
        facts.items() >= {**tags, "fingerprint": "aaa", "model_fingerprint": "model-a", "overall": "0.500000"}.items()
    )


def test_a_version_loads_back_by_role_and_gives_the_same_vectors(
    run: Run, make_bundle: MakeBundle, make_scores: MakeScores, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle("aaa")
    version = models.register(run, bundle, make_scores("model-a"), {})
    models.set_role(run.tracking, "champion", version)
    picture = io.BytesIO()
    Image.new("RGB", (20, 10), "red").save(picture, "PNG")
    expected = Runtime(bundle / "version").encode(["a sad cat", None], [None, picture.getvalue()], [None, "happy cat"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", run.tracking.uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{models.MODEL}@champion")
    asked = pd.DataFrame(
        {
            "text": ["a sad cat", None],
            "image": [None, base64.b64encode(picture.getvalue()).decode()],
            "instruction": [None, "happy cat"],
        }
    )
    np.testing.assert_array_equal(loaded.predict(asked), expected)
    np.testing.assert_array_equal(loaded.predict(asked[["text"]].head(1)), expected[:1])
    assert [column.name for column in loaded.metadata.signature.inputs] == ["text", "image", "instruction"]
    assert loaded.metadata.signature.outputs.inputs[0].shape == (-1, 4)
    logged = run.tracking.client.get_logged_model(loaded.metadata.model_id)
    assert logged.status == "READY" and logged.source_run_id == run.run_id


def test_a_bundle_comes_back_as_it_was_or_not_at_all(
    run: Run, make_bundle: MakeBundle, make_scores: MakeScores, tmp_path: Path
) -> None:
    bundle = make_bundle("aaa")
    version = models.register(run, bundle, make_scores("model-a"), {})
    to = tmp_path / "back" / "bundle"
    assert models.download(run.tracking, version, to) == to == models.download(run.tracking, version, to)
    assert (to / "version" / "text.onnx").read_bytes() == (bundle / "version" / "text.onnx").read_bytes()
    stored = Path(run.tracking.client.get_model_version_download_uri(models.MODEL, version).removeprefix("file://"))
    next(stored.rglob("text.onnx")).write_bytes(b"damaged")
    with pytest.raises(EmbedlineError, match="is damaged"):
        models.download(run.tracking, version, tmp_path / "other")
    assert list(tmp_path.glob("*other*")) == []


def test_roles_are_given_and_taken(run: Run, make_bundle: MakeBundle, make_scores: MakeScores) -> None:
    assert models.roles(run.tracking) == {"champion": None, "challenger": None, "previous": None}
    version = models.register(run, make_bundle("aaa"), make_scores("model-a"), {})
    models.set_role(run.tracking, "challenger", version)
    assert models.role(run.tracking, "challenger") == version and models.role(run.tracking, "champion") is None
    models.set_role(run.tracking, "challenger", None)
    assert models.role(run.tracking, "challenger") is None


@pytest.mark.parametrize("version", ["7", "latest"])
def test_an_unknown_version_is_used_wrongly(server: Tracking, version: str) -> None:
    with pytest.raises(UsageError, match=f"no version {version}"):
        models.facts(server, version)

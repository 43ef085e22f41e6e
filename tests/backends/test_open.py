import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.backends.multi_vector import MultiVectorEmbedder
from components.backends.open import open_embedder, probed_fingerprint
from components.backends.precomputed import PrecomputedEmbedder, write_precomputed
from components.backends.sentence_transformer import SentenceTransformerEmbedder
from components.corpus import Item
from components.embedder import OnnxEmbedder, TorchEmbedder, fingerprint
from components.embedder.dual_encoder import DualEncoder
from components.errors import UsageError
from components.export.exporters.dual_encoder import write_encoder

ROOT = Path(__file__).parents[2]


def test_each_directory_is_opened_as_what_it_is(
    encoder: DualEncoder,
    directory: Path,
    sentence_model: Path,
    clip_model: Path,
    multi_vector_model: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "onnx").mkdir()
    write_encoder(encoder, tmp_path / "onnx", opset=18)
    for model, kind in (
        (tmp_path / "onnx", OnnxEmbedder),
        (directory, TorchEmbedder),
        (sentence_model, SentenceTransformerEmbedder),
        (clip_model, SentenceTransformerEmbedder),
        (multi_vector_model, MultiVectorEmbedder),
    ):
        embedder, found = open_embedder(str(model), 4, tmp_path)
        assert type(embedder) is kind and embedder.name == model.name
        assert found == fingerprint(model)
        assert embedder.encode([Item("a cat")])[0].shape[-1] == embedder.dimension


@pytest.mark.parametrize("configuration", [{"model_type": "ColBERT"}, {"query_prefix": "[Q] "}])
def test_a_directory_that_pylate_wrote_is_multi_vector(
    configuration: dict[str, str], multi_vector_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "pylate"
    shutil.copytree(multi_vector_model, model)
    (model / "config_sentence_transformers.json").write_text(json.dumps(configuration))
    assert isinstance(open_embedder(str(model), 4, tmp_path)[0], MultiVectorEmbedder)


def test_a_directory_that_is_no_embedder_is_refused(text_model: Path, sentence_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{text_model}: no model directory") as raised:
        open_embedder(str(text_model), 4, tmp_path)
    assert "pooling" in raised.value.remedy

    model = tmp_path / "model"
    shutil.copytree(sentence_model, model)
    configuration = model / "config_sentence_transformers.json"
    for content, message in (
        ('{"model_type": "SparseEncoder"}', f"{model}: is a SparseEncoder"),
        ("{", str(configuration)),
        ("3", str(configuration)),
    ):
        configuration.write_text(content)
        with pytest.raises(UsageError, match=message):
            open_embedder(str(model), 4, tmp_path)


def test_vectors_are_opened_by_their_folder_and_known_by_their_bytes(tmp_path: Path) -> None:
    items, vectors = [Item("a cat"), Item("a dog")], np.eye(2, 3, dtype=np.float32)
    folder = tmp_path / "vectors"
    write_precomputed(folder, items, vectors, tmp_path)
    embedder, first = open_embedder(f"vectors:{folder}", 4, tmp_path)
    assert isinstance(embedder, PrecomputedEmbedder)
    np.testing.assert_array_equal(embedder.encode(items), vectors)
    write_precomputed(folder, items, vectors, tmp_path)
    assert open_embedder(f"vectors:{folder}", 4, tmp_path)[1] == first
    write_precomputed(folder, items, -vectors, tmp_path)
    assert open_embedder(f"vectors:{folder}", 4, tmp_path)[1] != first
    with pytest.raises(UsageError, match="nowhere"):
        open_embedder(f"vectors:{tmp_path / 'nowhere'}", 4, tmp_path)


def test_a_probed_fingerprint_is_of_address_and_vector_apart() -> None:
    vector = np.array([[0.25, -1.0]], np.float32)
    assert probed_fingerprint(vector, "host", "model") == probed_fingerprint(vector.copy(), "host", "model")
    others = {
        probed_fingerprint(vector, "host", "model"),
        probed_fingerprint(vector, "hostmodel"),
        probed_fingerprint(vector, "host", "mode", "l"),
        probed_fingerprint(np.nextafter(vector, 2), "host", "model"),
    }
    assert len(others) == 4


def test_the_packaged_model_is_opened_by_its_name(tmp_path: Path) -> None:
    embedder, _ = open_embedder("sentence-transformers/all-MiniLM-L6-v2", 4, tmp_path)
    assert embedder.name == "sentence-transformers/all-MiniLM-L6-v2"
    cat, kitten, tax = embedder.encode([Item("a cat"), Item("a kitten"), Item("the tax declaration of 1998")])
    assert cat @ kitten > 0.7 > 0.3 > cat @ tax


def test_a_name_is_refused_while_the_hub_is_switched_off(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="somebody/some-model: no such directory, and the model hub") as raised:
        open_embedder("somebody/some-model", 4, tmp_path)
    assert "HF_HUB_OFFLINE=0" in raised.value.remedy


@pytest.mark.slow
def test_a_name_is_fetched_from_the_hub_where_that_is_allowed(sentence_model: Path, tmp_path: Path) -> None:
    """The hub is a closed port here, and what an earlier download left is found; another name is an error."""
    repository = tmp_path / "hub" / "models--somebody--some-model"
    shutil.copytree(sentence_model, repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    program = """
import sys
from pathlib import Path
from components.backends.open import open_embedder
from components.errors import EmbedlineError
for name in sys.argv[1:]:
    try:
        embedder, fingerprint = open_embedder(name, 4, Path())
        print(type(embedder).__name__, embedder.name, fingerprint)
    except EmbedlineError as error:
        print(error.exit_code, error.problem[:60])
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "somebody/some-model", "somebody/other-model", "no name at all"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"},
        cwd=ROOT,
        timeout=300,
    )
    first, second, third = done.stdout.splitlines()
    assert first == f"SentenceTransformerEmbedder somebody/some-model {fingerprint(sentence_model)}"
    assert second.startswith("1 somebody/other-model: the model hub does not give it")
    assert third.startswith("1 no name at all: the model hub does not give it")


def test_code_of_the_hub_does_not_run(encoder: DualEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name: str(tmp_path / "fetched"))
    (tmp_path / "fetched").mkdir()
    write_encoder(encoder, tmp_path / "fetched", opset=18)
    assert isinstance(open_embedder(str(tmp_path / "fetched"), 4, tmp_path)[0], OnnxEmbedder)
    ran = tmp_path / "ran"
    (tmp_path / "fetched" / "runtime.py").write_text(f"open({str(ran)!r}, 'w')\nclass Runtime: ...")
    with pytest.raises(UsageError, match=r"somebody/graphs: brings code of its own, runtime\.py") as raised:
        open_embedder("somebody/graphs", 4, tmp_path)
    assert str(tmp_path / "fetched") in raised.value.remedy and not ran.exists()


def test_opening_needs_torch_for_models_alone(tmp_path: Path) -> None:
    write_precomputed(tmp_path / "vectors", [Item("a cat")], np.ones((1, 2), np.float32), tmp_path)
    program = f"""
import sys
from pathlib import Path
from components.backends.open import open_embedder
open_embedder("vectors:{tmp_path / "vectors"}", 4, Path("{tmp_path}"))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "False"

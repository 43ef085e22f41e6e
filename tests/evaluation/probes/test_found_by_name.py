"""A new probe is a new file: nothing lists it."""

from pathlib import Path

import pytest

from components.evaluation import probes
from components.evaluation.probes import probe, probe_names
from tests.evaluation.conftest import HashEmbedder
from tests.evaluation.probes.conftest import Measured, WriteSuite, with_image

FIRST_SET = """
from dataclasses import replace

def build(base, images):
    return replace(base, sets=base.sets[:1])

def measure(suite, scores, sides):
    return {questions.name: scores.tasks[questions.name].score for questions in suite.sets}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "probes").mkdir()
    monkeypatch.setattr(probes, "__path__", [*probes.__path__, str(tmp_path / "probes")])
    return tmp_path / "probes"


def test_every_probe_has_the_two_functions() -> None:
    known = ["geometry", "instruction-following", "mixed-modality", "modality-use", "multilingual", "robustness"]
    assert probe_names() == known
    assert all(callable(probe(name).build) and callable(probe(name).measure) for name in known)


def test_a_file_is_a_probe(folder: Path, write_suite: WriteSuite, measured: Measured, tmp_path: Path) -> None:
    assert "first-set" not in probe_names()
    (folder / "first_set.py").write_text(FIRST_SET)
    assert "first-set" in probe_names()
    base = write_suite({name: [with_image(number, ["a", "b"], 0) for number in range(4)] for name in "AB"})
    suite = probe("first-set").build(base, tmp_path / "images")
    assert [questions.name for questions in suite.sets] == ["A"]
    assert measured("first-set", suite, HashEmbedder()).keys() == {"A"}


def test_an_unknown_probe_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="did you mean 'robustness'"):
        probe("robustnes")

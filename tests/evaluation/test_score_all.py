import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModel, PreTrainedTokenizerFast

from components.config import PARAMETERS, read
from components.embedder import fingerprint
from components.embedder.config import IMAGE_MEAN, IMAGE_STD
from components.embedder.dual_encoder import assemble, load, save
from components.embedder.runtime import Description
from components.embedder.towers.image.residual import ResidualImageConfig, ResidualImageModel
from components.errors import EmbedlineError
from components.evaluation import parameters, score_all
from components.evaluation.config import Evaluation
from components.export.exporters.dual_encoder import export
from components.scores import Scores

NAMES = ("teacher", "student", "onnx-fp32")


@pytest.fixture(scope="session")
def models(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A teacher and a student with random weights, and the student's graphs."""
    folder = tmp_path_factory.mktemp("artifacts")
    for seed, name in enumerate(("teacher", "student")):
        torch.manual_seed(seed)
        image_tower = ResidualImageModel(ResidualImageConfig(image_size=16, widths=(8 + 8 * seed,), depths=(1,)))
        text_tower = AutoModel.from_pretrained(text_model, add_pooling_layer=False)
        description = Description(12, 16, IMAGE_MEAN, IMAGE_STD, 16, 0.25, (12,))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(text_model)
        save(assemble(text_tower, image_tower, tokenizer, description), folder / name)
    export(folder / "student", folder / "fp32", 20)
    return {"teacher": folder / "teacher", "student": folder / "student", "onnx-fp32": folder / "fp32"}


@pytest.fixture
def settings() -> Evaluation:
    return read(Path(__file__).parents[2] / PARAMETERS).evaluation


def test_every_model_is_scored_by_the_backend_that_ships_it(
    models: dict[str, Path], data: Path, tmp_path: Path, settings: Evaluation
) -> None:
    output, calls = tmp_path / "artifacts" / "scores", set()
    scores, speeds = score_all(settings, data, models, output, tmp_path / "cache", lambda *call: calls.add(call))
    assert sorted(file.stem for file in output.iterdir()) == sorted(NAMES)
    assert [folder.name for folder in output.parent.iterdir()] == ["scores"]
    assert {name: Scores.read(output / f"{name}.json") for name in NAMES} == scores
    assert {name: score.model.fingerprint for name, score in scores.items()} == {
        name: fingerprint(directory) for name, directory in models.items()
    }
    counts = {name: score.model.parameters for name, score in scores.items()}
    assert counts["teacher"] != counts["student"] == counts["onnx-fp32"]
    assert {name for name, *_ in calls} == set(NAMES)
    student, exported = scores["student"], scores["onnx-fp32"]
    for task, score in student.tasks.items():
        assert exported.tasks[task].score == pytest.approx(score.score, abs=0.05), "the same weights"
    again = score_all(settings, data, models, output, tmp_path / "cache", lambda *_: None)
    assert again == (scores, speeds), "nothing is encoded twice, and the speeds are those of the first time"
    assert speeds.keys() == scores.keys() and all(speed > 0 for speed in speeds.values())


def test_every_model_encodes_each_image_once(
    models: dict[str, Path], data: Path, tmp_path: Path, settings: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images are asked about by two sets, each with an instruction of its own."""
    loaded: Counter[object] = Counter()
    open_image = Image.open

    def counted(image: Any) -> Image.Image:
        loaded[image] += 1
        return open_image(image)

    monkeypatch.setattr(Image, "open", counted)
    score_all(settings, data, models, tmp_path / "scores", tmp_path / "cache", lambda *_: None)
    assert loaded == dict.fromkeys((data / "images").iterdir(), len(models))


def test_parameters_are_those_of_the_trained_model(models: dict[str, Path], tmp_path: Path) -> None:
    tensors = load(models["student"]).state_dict().values()
    assert parameters(models["student"]) == sum(tensor.numel() for tensor in tensors)
    with pytest.raises(EmbedlineError, match="holds no weights"):
        parameters(tmp_path)


def test_scores_appear_whole_or_not_at_all(
    models: dict[str, Path], data: Path, tmp_path: Path, settings: Evaluation
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(models["onnx-fp32"], broken)
    (broken / "text.onnx").write_bytes(b"")
    output = tmp_path / "scores"
    with pytest.raises(Exception, match=r"text\.onnx"):
        score_all(settings, data, models | {"onnx-fp32": broken}, output, tmp_path / "cache", lambda *_: None)
    assert not output.exists()
    score_all(settings, data, models, output, tmp_path / "cache", lambda *_: None)
    assert json.loads((output / "onnx-fp32.json").read_text())["model"]["dimension"] == 12

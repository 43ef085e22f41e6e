import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from components.config import Config, Teacher
from components.corpus import Item
from components.embedder import TorchEmbedder
from components.embedder.dual_encoder import DualEncoder, save
from components.errors import EmbedlineError
from components.training.examples import Examples
from components.training.teacher import build_teacher, train_teacher
from components.training.teacher_embeddings import FILES, read_teacher_embeddings, write_teacher_embeddings

Report = Callable[[int, Mapping[str, float]], None]
MakeTeacher = Callable[..., Teacher]
KILLED_IN_STEP_5 = """
import os, pickle, signal, sys
from pathlib import Path
import components, torch
from components.training.teacher import train_teacher

torch.set_num_threads(1)
config, examples = pickle.loads(sys.stdin.buffer.read())

def report(step, metrics):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train_teacher(config, examples, Path(sys.argv[1]), report)
"""


def weights(encoder: DualEncoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in encoder.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_stopped_training_goes_on_to_the_same_weights(
    precision: str,
    make_teacher: MakeTeacher,
    examples: Examples,
    tmp_path: Path,
    stop_at: Callable[[int], Report],
    ignore: Report,
) -> None:
    config = make_teacher(precision=precision)
    whole = weights(train_teacher(config, examples, tmp_path / "whole", ignore))
    for stop in range(1, 7):
        with pytest.raises(KeyboardInterrupt):
            train_teacher(config, examples, tmp_path / str(stop), stop_at(stop))
        steps: list[int] = []
        resumed = train_teacher(config, examples, tmp_path / str(stop), lambda step, _: steps.append(step))  # noqa: B023
        assert steps[0] == (stop - 1) // 2 * 2 + 1, "it goes on after its last checkpoint"
        assert same(weights(resumed), whole), stop
    assert not same(weights(train_teacher(make_teacher(seed=4), examples, tmp_path / "seed", ignore)), whole)


def test_a_killed_training_goes_on_to_the_same_weights(
    make_teacher: MakeTeacher, examples: Examples, tmp_path: Path, ignore: Report
) -> None:
    import pickle

    config = make_teacher()
    whole = weights(train_teacher(config, examples, tmp_path / "whole", ignore))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_STEP_5, str(tmp_path / "killed")],
        input=pickle.dumps((config, examples)),
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "killed" / "checkpoint.pt").is_file()
    assert same(weights(train_teacher(config, examples, tmp_path / "killed", ignore)), whole)


def test_the_text_tower_stays_as_it_was(
    make_teacher: MakeTeacher, examples: Examples, tmp_path: Path, ignore: Report
) -> None:
    config = make_teacher()
    before = weights(build_teacher(config))
    after = weights(train_teacher(config, examples, tmp_path, ignore))
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision_model", "visual_projection", "text_projection"}


def test_the_pretrained_words_mean_at_first_what_they_meant(
    make_teacher: MakeTeacher, examples: Examples, tmp_path: Path
) -> None:
    encoder = build_teacher(make_teacher())
    with torch.inference_mode():
        pooled = encoder.pool_text(**encoder.tokens(examples.texts))
        torch.testing.assert_close(encoder.project_text(pooled), torch.nn.functional.normalize(pooled, dim=-1))


def test_training_brings_pairs_together(make_teacher: MakeTeacher, examples: Examples, tmp_path: Path) -> None:
    found: list[float] = []
    config = make_teacher(
        steps=100, augmentation=0.0, sub_batches=1, task_weights={"Shown": 0, "LeftOf": 0}, checkpoint_every=1000
    )
    encoder = train_teacher(config, examples, tmp_path, lambda _, metrics: found.append(metrics["loss"]))
    assert found[-1] < found[0] / 2
    for model, right in ((encoder, 8), (build_teacher(config), 0)):
        with torch.inference_mode():
            texts = model(model.preprocess(examples.texts[:10]))["sentence_embedding"]
            images = model(model.preprocess([{"image": image} for image in examples.images]))["sentence_embedding"]
        hits = int(((texts @ images.T).argmax(1) == torch.arange(10)).sum())
        assert hits >= right if right else hits <= 4


def test_a_text_model_that_is_nowhere_is_named(make_teacher: MakeTeacher) -> None:
    config = make_teacher().model_copy(update={"text_model": "/no/such/model"})
    with pytest.raises(EmbedlineError, match="/no/such/model"):
        build_teacher(config)


def test_teacher_embeddings_are_those_of_encoding_directly(
    make_teacher: MakeTeacher, examples: Examples, tmp_path: Path, ignore: Report
) -> None:
    save(train_teacher(make_teacher(steps=2), examples, tmp_path / "work", ignore), tmp_path / "teacher")
    teacher = TorchEmbedder(tmp_path / "teacher", batch_size=4)
    write_teacher_embeddings(teacher, examples, tmp_path / "embeddings")
    found = read_teacher_embeddings(tmp_path / "embeddings")
    assert sorted(file.name for file in (tmp_path / "embeddings").iterdir()) == sorted(FILES)
    direct = (
        np.concatenate([teacher.encode([Item(text=text)]) for text in examples.texts]),
        np.concatenate([teacher.encode([Item(image=image)]) for image in examples.images]),
    )
    np.testing.assert_allclose(found.texts, direct[0], atol=1e-5)
    np.testing.assert_allclose(found.images, direct[1], atol=1e-5)
    assert not np.allclose(found.texts, direct[0][::-1], atol=1e-2)


def test_the_shipped_teacher_has_the_default_text_tower(params: Config) -> None:
    encoder = build_teacher(params.teacher)
    assert encoder.get_embedding_dimension() == 384
    assert sum(parameter.numel() for parameter in encoder.model.text_model.parameters()) > 22_000_000
    assert not any(parameter.requires_grad for parameter in encoder.model.text_model.parameters())

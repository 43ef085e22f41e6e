import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.corpus import Item
from components.embedder import Embedder, TorchEmbedder
from components.embedder.dual_encoder import DualEncoder
from components.errors import EmbedlineError, UsageError
from components.training.batch import BatchBuilder
from components.training.encoder import TowersEncoder
from components.training.examples import NONE, Examples
from components.training.negatives import HardNegatives
from components.training.recipe import TrainingData, train_by

from .conftest import LEARNING, MakeRecipe, fit, of_tasks, same, stop_at, untrained, weights

CONTRASTIVE: dict[str, Any] = {"name": "contrastive", "temperature": 0.1}
LEARNS_ALL = {"losses": [CONTRASTIVE]}
PICTURES_FROZEN = {"vision_model": 0.0, "visual_projection": 0.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"precision": "bfloat16"},
    "two phases": {
        "phases": [
            {"fraction": 0.5, "lr_multipliers": {"text_model": 0.0}, "losses": [CONTRASTIVE]},
            {"fraction": 0.5, "lr_multipliers": {"vision_model": 0.0}, "losses": [{**CONTRASTIVE, "temperature": 0.2}]},
        ]
    },
    "learnt temperature": {"phases": [{"losses": [{**CONTRASTIVE, "learnt": True}]}]},
    "adapter": {
        "adapter": {"kind": "lora", "rank": 2, "alpha": 4.0, "dropout": 0.1, "targets": ["query", "visual_projection"]},
        "phases": [{"losses": [CONTRASTIVE]}],
    },
    "chunks": {
        "chunk": 9,
        "augmentation": 0.0,
        "phases": [{"lr_multipliers": PICTURES_FROZEN, "losses": [CONTRASTIVE]}],
    },
}
EVERY_STEP = ("float32", "bfloat16", "two phases")
KILLED_IN_STEP_5 = """
import os, pickle, signal, sys
from pathlib import Path
import components, torch
from components.training.batch import BatchBuilder
from components.training.encoder import TowersEncoder
from components.training.negatives import HardNegatives
from components.training.recipe import TrainingData, train_by
from components.training.towers import build_towers

torch.set_num_threads(1)
recipe, examples = pickle.loads(sys.stdin.buffer.read())
encoder = TowersEncoder(build_towers(recipe.backbone, [], recipe.schedule.seed), examples)

def report(step, metrics):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)

train_by(recipe, encoder, TrainingData(examples), Path(sys.argv[1]), report)
"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stopped_training_goes_on_to_the_same_weights(
    variant: str, make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    recipe = make_teaching(**VARIANTS[variant])
    last = 3 if len(recipe.phases) > 1 else 6  # the number of the step with which the first phase ends
    whole = weights(fit(recipe, examples, tmp_path / "whole"))
    for stop in range(1, 7) if variant in EVERY_STEP else (3, 6):
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, examples, tmp_path / str(stop), stop_at(stop))
        steps: list[int] = []
        resumed = fit(recipe, examples, tmp_path / str(stop), lambda step, _: steps.append(step))  # noqa: B023
        began = last if stop > last else 0
        assert steps[0] == began + (stop - began - 1) // 2 * 2 + 1, "it goes on after its last checkpoint"
        assert same(weights(resumed), whole), stop
    other = make_teaching(**VARIANTS[variant], seed=4)
    assert not same(weights(fit(other, examples, tmp_path / "seed", module=untrained(recipe))), whole)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights(
    make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    recipe = make_teaching()
    whole = weights(fit(recipe, examples, tmp_path / "whole"))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_IN_STEP_5, str(tmp_path / "killed")],
        input=pickle.dumps((recipe, examples)),
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL and (tmp_path / "killed" / "phase-0" / "checkpoint.pt").is_file()
    assert same(weights(fit(recipe, examples, tmp_path / "killed")), whole)


def erratic(embedder: Embedder) -> float:
    """Returns a score that goes up and down with the smallest change of the model."""
    return float(np.sin(1e4 * embedder.encode([Item(text="a red cat")]).astype(np.float64).sum()))


@pytest.mark.parametrize("metric", ["loss", "dev_score"])
def test_a_training_stopped_beside_its_scores_goes_on_to_the_same_best_weights(
    metric: str, make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    recipe = make_teaching(
        steps=9, checkpoint_every=3, early_stopping={"every": 2, "patience": 3, "soup": 2}, phases=[LEARNS_ALL]
    )
    scores: dict[int, float] = {}
    whole = weights(
        fit(
            recipe,
            examples,
            tmp_path / "whole",
            lambda step, reported: scores.update({step: reported["dev_score"]} if "dev_score" in reported else {}),
            erratic,
        )
    )
    assert list(scores) == [2, 4, 6, 8] and len(set(scores.values())) == 4
    for stop in (4, 8):
        with pytest.raises(KeyboardInterrupt):
            fit(recipe, examples, tmp_path / str(stop), stop_at(stop, metric), erratic)
        assert same(weights(fit(recipe, examples, tmp_path / str(stop), scorer=erratic)), whole), stop
    unstopped = recipe.model_copy(update={"early_stopping": None})
    assert not same(weights(fit(unstopped, examples, tmp_path / "last")), whole), "the last weights are the best"


def test_a_training_stops_early_with_the_best_weights(
    make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    """The dev score rises, then falls: training stops after `patience` scores, and the model is that of the best."""
    recipe = make_teaching(steps=20, early_stopping={"every": 2, "patience": 2}, phases=[LEARNS_ALL])
    course = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    kept: list[dict[str, Tensor]] = []
    steps: list[int] = []

    def score(embedder: Embedder) -> float:
        assert isinstance(embedder, TorchEmbedder)
        kept.append(weights(embedder.encoder))
        return next(course)

    trained = fit(recipe, examples, tmp_path, lambda step, _: steps.append(step), score)
    assert steps[-1] == 8 and len(kept) == 4, "0.3 again is no better"
    assert same(weights(trained), kept[1]) and not same(kept[1], kept[3]) and not trained.training


@pytest.mark.parametrize("seed", [-(2**31), 2**31 - 1])
def test_every_seed_that_a_recipe_may_have_can_be_trained_with(
    seed: int, make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    fit(make_teaching(seed=seed, steps=2, phases=[LEARNS_ALL]), examples, tmp_path)


def test_the_text_tower_stays_as_it_was(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    recipe = make_teaching()
    before, after = weights(untrained(recipe)), weights(fit(recipe, examples, tmp_path))
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision_model", "visual_projection", "text_projection"}


def test_each_phase_trains_what_it_names(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    """The steps of the phases count on, and what was frozen in one may learn in the next."""
    phases = [
        {"fraction": 0.5, "lr_multipliers": {"text": 0.0}, "losses": [CONTRASTIVE]},
        {"fraction": 0.5, "lr_multipliers": {"vis": 0.0}, "losses": [CONTRASTIVE]},
    ]
    recipe = make_teaching(phases=phases)
    seen: list[dict[str, Tensor]] = []
    steps: list[int] = []
    module = untrained(recipe)
    start = weights(module)

    def report(step: int, _: Mapping[str, float]) -> None:
        steps.append(step)
        seen.append(weights(module))

    fit(recipe, examples, tmp_path, report, module=module)
    assert steps == [1, 2, 3, 4, 5, 6]

    def towers(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
        return {name.split(".")[1] for name in one if not torch.equal(one[name], other[name])}

    assert towers(start, seen[2]) == {"vision_model", "visual_projection"}
    assert towers(seen[2], seen[5]) == {"text_model", "text_projection"}


def test_training_brings_pairs_together(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    found: list[float] = []
    recipe = make_teaching(
        steps=100, augmentation=0.0, sub_batches=1, task_weights={"Shown": 0, "LeftOf": 0}, checkpoint_every=1000
    )
    encoder = fit(recipe, examples, tmp_path, lambda _, metrics: found.append(metrics["loss"]))
    assert found[-1] < found[0] / 2
    assert hits(encoder, examples) >= 8 and hits(untrained(recipe), examples) <= 4


def hits(model: DualEncoder, examples: Examples) -> int:
    """Returns how many of the ten names find their image."""
    with torch.inference_mode():
        texts = model(model.preprocess(examples.texts[:10]))["sentence_embedding"]
        images = model(model.preprocess([{"image": image} for image in examples.images]))["sentence_embedding"]
    return int(((texts @ images.T).argmax(1) == torch.arange(10)).sum())


def test_what_the_losses_learn_and_how_the_vectors_lie_is_reported(
    make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    reported: list[Mapping[str, float]] = []
    recipe = make_teaching(**VARIANTS["learnt temperature"])
    fit(recipe, examples, tmp_path, lambda _, metrics: reported.append(metrics))
    shown = {"loss", "loss/contrastive", "alignment", "uniformity", "modality_gap", "memory_gib", "gradient_norm"}
    assert shown <= reported[0].keys()
    (temperature,) = (name for name in reported[0] if "temperature" in name)
    assert reported[0][temperature] != reported[-1][temperature]


class Broken(TowersEncoder):
    """An encoder whose vectors are not finite from a step on."""

    def __call__(self, positions: Tensor, step: int) -> Tensor:
        return super().__call__(positions, step) * (torch.nan if step == 2 else 1)


def test_a_loss_that_is_not_finite_names_the_rows_of_its_batch_and_changes_no_weight(
    make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    recipe, before = make_teaching(), []
    encoder = Broken(untrained(recipe), examples)
    with pytest.raises(EmbedlineError, match="not finite at step 2: contrastive nan") as raised:
        train_by(
            recipe,
            encoder,
            TrainingData(examples),
            tmp_path,
            lambda step, _: before.append(weights(encoder.module)) if step == 2 else None,
        )
    file = Path(raised.value.problem.split("its batch is in ")[1])
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    batch = BatchBuilder(examples, recipe.schedule)(2)
    assert [row["query"] for row in rows] == [examples.content(query) for query in batch.queries.tolist()]
    assert [row["positive"] for row in rows] == [examples.content(positive) for positive in batch.positives.tolist()]
    assert raised.value.exit_code == 1 and "learning_rate" in raised.value.remedy
    learnt = {name for name, _ in encoder.module.named_parameters()}
    after = weights(encoder.module)
    assert all(torch.equal(after[name], before[0][name]) for name in learnt)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"phases": [{"lr_multipliers": {"vision_tower": 0.1}, "losses": [CONTRASTIVE]}]},
            "phases.lr_multipliers: vision_tower",
        ),
        ({"chunk": 4}, "normalises over the whole batch"),
        ({"phases": [LEARNING]}, "learns from a teacher, and this model has none"),
        ({"adapter": {"kind": "lora", "rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["zzz"]}}, "zzz"),
        ({"task_weights": {"Name": 0, "Shown": 0, "LeftOf": 0}}, "no task of the data set has a weight"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    changes: dict[str, Any], said: str, make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        fit(make_teaching(**changes), examples, tmp_path)
    assert raised.value.exit_code == 2 and raised.value.remedy


def test_a_rate_for_what_no_parameter_is_called_is_answered_with_the_names_there_are(
    make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    recipe = make_teaching(phases=[{"lr_multipliers": {"vision_tower": 0.1}, "losses": [CONTRASTIVE]}])
    with pytest.raises(UsageError) as raised:
        fit(recipe, examples, tmp_path)
    assert "vision_model" in raised.value.remedy


def test_hard_negatives_take_part(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    """Those that a row does not have change nothing."""

    def first_loss(absent: int | None) -> float:
        """Returns the loss of the first step, where each row has two negatives, of which some are absent."""
        reported: list[float] = []
        negatives = None
        if absent is not None:
            negatives = {
                task: HardNegatives(np.stack([np.roll(rows, shift, 0) for shift in (1, 2)], 1), None)
                for task, rows in examples.positives.items()
            }
            for own in negatives.values():
                own.positions[:, 2 - absent :] = NONE
        fit(
            make_teaching(steps=1, augmentation=0.0),
            TrainingData(examples, negatives),
            tmp_path / str(absent),
            lambda _, metrics: reported.append(metrics["loss"]),
        )
        return reported[0]

    none, one, two, without = (first_loss(absent) for absent in (2, 1, 0, None))
    assert none == pytest.approx(without, rel=1e-5) and two > one > none


def test_a_rerankers_scores_are_learnt(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    """What it scores higher than the positive comes nearer to the query."""
    numbers = np.arange(10)
    negatives = {
        "Name": HardNegatives(
            np.roll(examples.positives["Name"], -1, 0)[:, None], np.tile(np.array([0, 9], np.float32), (10, 1))
        )
    }
    term = {"name": "scores", "student_temperature": 0.05, "teacher_temperature": 1.0}
    recipe = make_teaching(
        steps=60, augmentation=0.0, checkpoint_every=1000, task_weights={"Name": 1}, phases=[{"losses": [term]}]
    )
    module = fit(recipe, TrainingData(of_tasks(examples, "Name"), negatives), tmp_path)
    with torch.inference_mode():
        texts, images = (
            module(module.preprocess(items))["sentence_embedding"].numpy()
            for items in (examples.texts[:10], [{"image": image} for image in examples.images])
        )
    cosines = texts @ images.T
    assert (cosines[numbers, (numbers + 1) % 10] > cosines[numbers, numbers]).sum() >= 8


def test_a_batch_in_chunks_trains_as_a_whole_one(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    def reported(**changes: Any) -> list[float]:
        recipe, found = make_teaching(**VARIANTS["chunks"] | changes), []
        module = untrained(recipe)
        for layer in module.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0

        def report(step: int, metrics: Mapping[str, float]) -> None:
            found.extend([metrics["loss"], metrics["gradient_norm"]])

        fit(recipe, examples, tmp_path / str(changes), report, module=module)
        return found

    whole = reported(chunk=0)
    assert reported(chunk=7) == pytest.approx(whole, rel=1e-3)
    assert reported(chunk=0, seed=5) != pytest.approx(whole, rel=1e-3)

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from components.backends.whole_model import load_whole
from components.corpus import Item
from components.embedder.dual_encoder import load
from components.training.batch import BatchBuilder
from components.training.chunks import in_chunks
from components.training.config import Schedule
from components.training.encoder import TowersEncoder, sum_of_parts
from components.training.examples import IMAGE, NONE, TEXT, Examples
from components.training.loop import freeze
from components.training.model_encoder import ModelEncoder
from components.training.recipe import TrainingData, train_by

from .conftest import MakeRecipe, fit, same, untrained, weights

MakeSchedule = Callable[..., Schedule]
CONTRASTIVE: dict[str, Any] = {"name": "contrastive", "temperature": 0.1}
BOTH_FROZEN = {"text_model": 0.0, "vision_model": 0.0}
ITEMS = torch.tensor([[0, NONE, NONE], [NONE, 3, NONE], [11, 4, 10], [5, NONE, 10], [NONE, 3, 10], [0, NONE, NONE]])


@pytest.fixture
def encoder(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> TowersEncoder:
    """An encoder in evaluation mode, whose images are augmented."""
    recipe = make_teaching()
    made = TowersEncoder(untrained(recipe), examples)
    made.prepare(recipe.schedule, tmp_path)
    return made


def test_vectors_are_those_of_the_embedder(
    encoder: TowersEncoder, make_schedule: MakeSchedule, examples: Examples, tmp_path: Path
) -> None:
    schedule = make_schedule(augmentation=0.0)
    encoder.prepare(schedule, tmp_path / "unchanged")
    positions = torch.cat([ITEMS, BatchBuilder(examples, schedule)(1).items])
    parts = [examples.content(row) for row in positions.tolist()]
    items = [Item(**part | ({"image": Path(part["image"])} if "image" in part else {})) for part in parts]  # type: ignore[arg-type]
    with torch.inference_mode():
        found = encoder(positions, 1)
    assert found.shape == (len(items), encoder.dimension) == (len(items), 24)
    torch.testing.assert_close(found, torch.from_numpy(encoder.embedder().encode(items)), atol=1e-5, rtol=0)


def test_an_item_has_the_same_vector_whatever_else_is_in_the_batch(encoder: TowersEncoder) -> None:
    with torch.inference_mode():
        together, alone = encoder(ITEMS, 2), torch.cat([encoder(item[None], 2) for item in ITEMS])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
        assert torch.equal(together[0], together[5]), "what comes twice is computed once"
        later = encoder(ITEMS, 3)
    with_image = ITEMS[:, IMAGE] != NONE
    assert not torch.isclose(later[with_image], together[with_image], atol=1e-3).all(1).any()
    torch.testing.assert_close(later[~with_image], together[~with_image])


@pytest.mark.parametrize("kind", ["towers", "whole"])
def test_what_is_absent_has_a_zero_vector(kind: str, encoder: TowersEncoder, examples: Examples) -> None:
    asked = encoder if kind == "towers" else ModelEncoder(load_whole("random:clip", None, 0), examples, "float32")
    with torch.inference_mode():
        vectors = asked(torch.tensor([[NONE, NONE, NONE], [0, NONE, NONE], [NONE, NONE, NONE]]), 0)
        nothing = asked(torch.full((2, 3), NONE), 0)
    assert vectors.norm(dim=1).tolist() == pytest.approx([0, 1, 0])
    assert nothing.shape == (2, asked.dimension) and not nothing.any()


def test_a_sum_of_parts_is_weighted_and_normalised(encoder: TowersEncoder) -> None:
    texts, images = torch.randn(4, 24), torch.randn(3, 24)
    positions = torch.tensor([[0, NONE, NONE], [NONE, 2, NONE], [1, 2, 3], [1, NONE, 3]])
    found = sum_of_parts(positions, texts.__getitem__, images.__getitem__, encoder.module.description)
    expected = torch.stack([texts[0], images[2], texts[1] + images[2] + 0.2 * texts[3], texts[1] + 0.2 * texts[3]])
    torch.testing.assert_close(found, functional.normalize(expected, dim=-1))


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("two_threads")
def test_the_gradient_is_bitwise_the_same_every_time(encoder: TowersEncoder) -> None:
    """With so many numbers that two threads add them up, the gradient of `vectors[where]` is not."""
    description = replace(encoder.module.description, dimension=384)
    texts, wanted = torch.randn(700, 384, requires_grad=True), torch.randn(2000, 384)
    positions = torch.full((2000, 3), NONE)
    positions[:, TEXT] = torch.randint(0, 700, (2000,))
    found = set()
    for _ in range(20):
        vectors = sum_of_parts(positions, texts.__getitem__, texts.__getitem__, description)
        found.add(torch.autograd.grad(vectors, texts, wanted)[0].numpy().tobytes())
    assert len(found) == 1


class EveryStep(TowersEncoder):
    """Computes frozen towers at every step."""

    def prepare(self, schedule: Schedule, folder: Path, image_size: int | None = None) -> None:
        super().prepare(schedule, folder, image_size)
        self.embed_texts, self.embed_images = self._texts(), self._images()


def test_what_frozen_towers_put_out_is_computed_once_and_trains_the_same(
    make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    def trained(kind: type[TowersEncoder], augmentation: float) -> tuple[dict[str, Tensor], list[str]]:
        recipe = make_teaching(
            augmentation=augmentation,
            phases=[{"lr_multipliers": BOTH_FROZEN, "losses": [CONTRASTIVE]}],
            precision="float32",
        )
        module, calls = untrained(recipe), list[str]()
        for name in ("text_model", "vision_model"):
            getattr(module.model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
        folder = tmp_path / f"{kind.__name__}-{augmentation}"
        train_by(recipe, kind(module, examples), TrainingData(examples), folder, lambda *_: None)
        return weights(module), calls

    once, calls = trained(TowersEncoder, 0.0)
    every_step, more_calls = trained(EveryStep, 0.0)
    assert sorted(calls) == ["text_model", "vision_model"] and more_calls.count("vision_model") > 6
    assert all(torch.allclose(once[name], every_step[name], atol=1e-4) for name in once)
    changed, calls = trained(TowersEncoder, 0.5)
    assert calls.count("text_model") == 1 and calls.count("vision_model") == 6, "changed images differ in every step"
    assert not torch.allclose(changed["model.visual_projection.weight"], once["model.visual_projection.weight"], 1e-3)


def test_a_phase_shows_images_at_its_size(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    phases = [{"fraction": 0.5, "image_size": 8, "losses": [CONTRASTIVE]}, {"fraction": 0.5, "losses": [CONTRASTIVE]}]
    recipe = make_teaching(phases=phases, augmentation=0.0)
    module, sizes = untrained(recipe), list[int]()
    module.model.vision_model.register_forward_pre_hook(
        lambda _, positional, named: sizes.append(named["pixel_values"].shape[-1]), with_kwargs=True
    )
    train_by(recipe, TowersEncoder(module, examples), TrainingData(examples), tmp_path, lambda *_: None)
    assert sizes == [8] * 3 + [16] * 3
    large, small = (np.load(tmp_path / f"phase-0/{name}.npy") for name in ("images", "resized_images"))
    means = large.reshape(len(large), 3, 8, 2, 8, 2).mean((3, 5))
    np.testing.assert_array_equal(small, means.round().astype(np.uint8))


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_frozen_normalisation_keeps_its_statistics(
    rate: float, make_teaching: MakeRecipe, examples: Examples, tmp_path: Path
) -> None:
    recipe = make_teaching(phases=[{"lr_multipliers": {"vision_model": rate}, "losses": [CONTRASTIVE]}])
    before, after = weights(untrained(recipe)), weights(fit(recipe, examples, tmp_path))
    statistics = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert statistics and all(torch.equal(before[name], after[name]) == (rate == 0) for name in statistics)


def test_what_is_saved_is_what_was_trained(encoder: TowersEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        encoder.module.model.visual_projection.weight.add_(0.1)
    encoder.save(tmp_path / "model")
    assert same(weights(load(tmp_path / "model")), weights(encoder.module))


def test_gradients_reach_what_is_not_frozen(encoder: TowersEncoder) -> None:
    encoder(ITEMS, 0).sum().backward()
    parts: dict[str, nn.Module] = dict(encoder.module.model.named_children())
    reached = {name for name, part in parts.items() if any(one.grad is not None for one in part.parameters())}
    assert reached == {"text_model", "vision_model", "text_projection", "visual_projection"}


@pytest.mark.parametrize("frozen", [{}, BOTH_FROZEN])
def test_what_is_computed_lies_where_the_model_does(
    make_learning: MakeRecipe,
    make_schedule: MakeSchedule,
    examples: Examples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frozen: dict[str, float],
) -> None:
    """torch's `meta` stands for an accelerator: it computes shapes only, and refuses what lies elsewhere too."""
    recipe = make_learning(matryoshka_dimensions=[], phases=[{"lr_multipliers": frozen, "losses": [CONTRASTIVE]}])
    schedule = make_schedule(augmentation=0.0 if frozen else 1.0)
    here = TowersEncoder(untrained(recipe), examples)
    freeze(here.module, recipe.phases[0], {name for name, _ in here.module.named_parameters()})
    here.prepare(schedule, tmp_path)
    monkeypatch.setattr("components.training.encoder.get_device_name", lambda: "meta")
    there = TowersEncoder(here.module, examples)
    there.prepare(schedule, tmp_path)
    for chunk in (len(ITEMS), 2):
        vectors = in_chunks(there, ITEMS, 0, chunk, there.device)
        assert vectors.device.type == "meta" and vectors.shape == (len(ITEMS), 24)
        vectors.sum().backward()
    gradients = [parameter.grad for parameter in there.module.parameters() if parameter.grad is not None]
    assert gradients and {gradient.device.type for gradient in gradients} == {"meta"}

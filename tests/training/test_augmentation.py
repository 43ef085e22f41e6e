from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from components.errors import UsageError
from components.training.augmentation import MIRROR, Augmentation, augment, changes, not_flipped
from components.training.config import Schedule
from components.training.examples import Examples

from .conftest import of_tasks

COUNT = 64
MakeSchedule = Callable[..., Schedule]


def spots(left: bool = True) -> Tensor:
    """White images with a black spot far on one side."""
    pixels = torch.ones(COUNT, 3, 16, 16)
    pixels[:, :, 6:10, slice(2, 5) if left else slice(11, 14)] = 0
    return pixels


def change(pixels: Tensor, mirror: bool | Tensor = True, strength: float = 1.0, seed: int = 0) -> Tensor:
    allowed = mirror if isinstance(mirror, Tensor) else torch.full((len(pixels),), mirror)
    return augment(pixels, changes(~allowed, strength, seed))


def centres(pixels: Tensor) -> Tensor:
    """Returns `(n,)`: how far right the dark of each image lies, 0 to 15."""
    ink = (pixels.amax((1, 2, 3), keepdim=True) - pixels).mean((1, 2))
    return (ink * torch.arange(16)).sum(1) / ink.sum(1)


def test_strength_zero_mirrors_at_most() -> None:
    pixels = torch.rand(COUNT, 3, 16, 16)
    torch.testing.assert_close(change(pixels, mirror=False, strength=0.0), pixels, atol=1e-5, rtol=0)
    mirrored = changes(torch.zeros(COUNT, dtype=torch.bool), 0.0, 0)[:, MIRROR].bool()
    torch.testing.assert_close(change(pixels, strength=0.0)[mirrored], pixels[mirrored].flip(-1), atol=1e-5, rtol=0)
    assert not torch.allclose(change(pixels, mirror=False, strength=0.1), pixels, atol=1e-3)


def test_what_comes_in_from_outside_is_white() -> None:
    plain = change(torch.ones(COUNT, 3, 16, 16))
    assert (plain.amax((2, 3)) - plain.amin((2, 3))).max() < 1e-5
    black = change(torch.zeros(COUNT, 3, 16, 16))
    corners = black[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].amax((1, 2))
    assert (corners > 0.7).float().mean() > 0.5, "most images are moved or turned, and show what lies outside"


def test_images_are_mirrored_only_where_it_is_allowed() -> None:
    assert (centres(change(spots(), mirror=False)) < 8).all()
    assert (centres(change(spots(left=False), mirror=False)) > 8).all()
    mirrored = centres(change(spots())) > 8
    assert COUNT / 4 < mirrored.sum() < COUNT * 3 / 4
    some = torch.arange(COUNT) % 2 == 0
    turned = centres(change(spots(), mirror=some)) > 8
    assert turned[some].any() and not turned[~some].any()


def test_the_same_seed_gives_the_same_changes() -> None:
    pixels = torch.rand(COUNT, 3, 16, 16)
    assert torch.equal(change(pixels, seed=5), change(pixels, seed=5))
    assert not torch.equal(change(pixels, seed=5), change(pixels, seed=6))
    assert not torch.equal(change(pixels[:1].expand(COUNT, -1, -1, -1), seed=5)[0], change(pixels[:1], seed=6)[0])


def test_a_stronger_augmentation_changes_more() -> None:
    pixels = spots()
    weak, strong = ((change(pixels, strength=strength, mirror=False) - pixels).abs().mean() for strength in (0.1, 1.0))
    assert 0 < weak < strong / 2


def test_the_images_of_no_flip_tasks_are_never_mirrored(examples: Examples, make_schedule: MakeSchedule) -> None:
    """Queries' images and positives'; those of other tasks alone, and all where no task is named, are."""
    half = replace(
        examples,
        queries=examples.queries | {"LeftOf": examples.queries["LeftOf"][:3]},
        positives=examples.positives | {"LeftOf": examples.positives["LeftOf"][:3]},
    )
    assert not_flipped(half, ["LeftOf"]).tolist() == [True] * 4 + [False] * 6
    with pytest.raises(UsageError, match="no_flip_tasks: LeftOff: ") as refused:
        not_flipped(half, ["LeftOf", "LeftOff"])
    assert "LeftOf;" in refused.value.remedy
    pixels, images = spots()[:10], torch.arange(10)

    def mirrored(tasks: list[str]) -> Tensor:
        """Returns `(images,)` bool: which are mirrored at one of many steps."""
        augmentation = Augmentation(half, make_schedule(augmentation=1.0, no_flip_tasks=tasks))
        return torch.stack([centres(augmentation(pixels, images, step)) > 8 for step in range(30)]).any(0)

    assert mirrored(["LeftOf"]).tolist() == [False] * 4 + [True] * 6
    assert mirrored([]).all()


def test_an_image_looks_the_same_at_a_step_whatever_else_is_there(
    examples: Examples, make_schedule: MakeSchedule
) -> None:
    pixels = torch.rand(10, 3, 16, 16)
    stored = torch.stack([changes(torch.zeros(10, dtype=torch.bool), 1.0, view) for view in range(3)], 1)
    for augmentation in (Augmentation(examples, make_schedule()), Augmentation(examples, make_schedule(), stored)):
        together = augmentation(pixels, torch.arange(10), 4)
        some = torch.tensor([7, 2, 7])
        torch.testing.assert_close(augmentation(pixels[some], some, 4), together[some])
        assert not torch.allclose(augmentation(pixels, torch.arange(10), 5), together, atol=1e-2)


def test_stored_changes_are_shown_view_by_view_as_a_file_would_hold_them(
    examples: Examples, make_schedule: MakeSchedule
) -> None:
    stored = torch.stack([changes(torch.zeros(10, dtype=torch.bool), 1.0, view) for view in range(3)], 1)
    augmentation = Augmentation(of_tasks(examples, "Name"), make_schedule(augmentation=0.0), stored)
    pixels, images = torch.rand(10, 3, 16, 16), torch.arange(10)
    views = np.stack([augmentation.views(step).numpy() for step in range(20)])
    assert {*views.flatten()} == {0, 1, 2} and len({*map(tuple, views)}) > 10
    for step in range(3):
        shown = stored[images, torch.from_numpy(views[step])]
        assert torch.equal(augmentation(pixels, images, step), augment(pixels, shown).clamp(0, 1))


def test_without_augmentation_images_are_as_they_are(examples: Examples, make_schedule: MakeSchedule) -> None:
    augmentation = Augmentation(examples, make_schedule(augmentation=0.0))
    pixels = torch.rand(10, 3, 16, 16)
    assert torch.equal(augmentation(pixels, torch.arange(10), 0), pixels)
    assert augmentation.views(7).tolist() == [0] * 10

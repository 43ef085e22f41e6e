import torch
from torch import Tensor

from components.training.augmentation import augment

COUNT = 64


def spots(left: bool = True) -> Tensor:
    """White pictures with a black spot far on one side."""
    pixels = torch.ones(COUNT, 3, 16, 16)
    pixels[:, :, 6:10, slice(2, 5) if left else slice(11, 14)] = 0
    return pixels


def change(pixels: Tensor, mirror: bool | Tensor = True, strength: float = 1.0, seed: int = 0) -> Tensor:
    allowed = mirror if isinstance(mirror, Tensor) else torch.full((len(pixels),), mirror)
    return augment(pixels, torch.Generator().manual_seed(seed), strength, allowed)


def centres(pixels: Tensor) -> Tensor:
    """Returns `(n,)`: how far right the dark of each picture lies, 0 to 15."""
    ink = (pixels.amax((1, 2, 3), keepdim=True) - pixels).mean((1, 2))
    return (ink * torch.arange(16)).sum(1) / ink.sum(1)


def test_strength_zero_changes_nothing() -> None:
    pixels = torch.rand(COUNT, 3, 16, 16)
    assert torch.equal(change(pixels, strength=0.0), pixels)
    assert not torch.equal(change(pixels, strength=0.1), pixels)


def test_what_comes_in_from_outside_is_white() -> None:
    plain = change(torch.ones(COUNT, 3, 16, 16))
    assert (plain.amax((2, 3)) - plain.amin((2, 3))).max() < 1e-5
    black = change(torch.zeros(COUNT, 3, 16, 16))
    corners = black[:, :, [0, 0, -1, -1], [0, -1, 0, -1]].amax((1, 2))
    assert (corners > 0.7).float().mean() > 0.5, "most pictures are moved or turned, and show what lies outside"


def test_pictures_are_mirrored_only_where_it_is_allowed() -> None:
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

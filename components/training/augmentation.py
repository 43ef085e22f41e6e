"""Random changes to training pictures that leave their meaning alone, seeded by the step."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def augment(pixels: Tensor, generator: torch.Generator, strength: float, mirror: Tensor) -> Tensor:
    """Returns `pixels (n, 3, size, size)` float32 in 0..1 turned, scaled, moved and tinted; mirrored where
    `mirror (n,)` allows.

    What comes in from outside is white, the ground on which the embedder puts every picture. `strength` 0 changes
    nothing.
    """
    if not strength:
        return pixels
    count = len(pixels)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count).uniform_(low * strength, high * strength, generator=generator)

    angle = uniform(-0.3, 0.3)
    scale_x = torch.exp(uniform(-0.2, 0.4))
    scale_y = scale_x * torch.exp(uniform(-0.1, 0.1))
    scale_x = scale_x * torch.where(mirror & (torch.rand(count, generator=generator) < 0.5), -1.0, 1.0)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    transform = torch.stack(
        [
            torch.stack([cosine * scale_x, -sine * scale_y, uniform(-0.15, 0.15)], 1),
            torch.stack([sine * scale_x, cosine * scale_y, uniform(-0.15, 0.15)], 1),
        ],
        1,
    )
    grid = functional.affine_grid(transform, list(pixels.shape), align_corners=False)
    moved = 1 - functional.grid_sample(1 - pixels, grid, align_corners=False)
    grey = torch.rand(count, 1, 1, 1, generator=generator) < 0.1 * strength
    moved = torch.where(grey, moved.mean(1, keepdim=True), moved)
    contrast = 1 + uniform(-0.2, 0.2).view(-1, 1, 1, 1)
    tint = torch.empty(count, 3, 1, 1).uniform_(-0.08 * strength, 0.08 * strength, generator=generator)
    return moved * contrast + tint

"""Large batches in little memory: only one chunk's activations exist at a time.

GradCache (Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021): encode without
keeping activations, compute the loss over the whole batch, then encode each chunk again to carry the gradient of its
vectors to the weights. Checkpointing the activations of each chunk (Chen et al., Training Deep Nets with Sublinear
Memory Cost, 2016) does exactly this within one backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from components.errors import UsageError


def in_chunks(
    encode: Callable[[Tensor, int], Tensor],
    positions: Tensor,
    step: int,
    size: int,
    device: torch.device | None = None,
) -> Tensor:
    """Returns `encode(positions, step)` and its gradient, computed for `size` rows of `positions` at a time.

    Random numbers, such as dropout's, are the same in the second computation of a chunk as in the first; `device` is
    where they are drawn.
    """
    there = torch.empty(0, device=device)  # torch keeps the random state of the devices of the arguments, and no other

    def encoded(chunk: Tensor, there: Tensor) -> Tensor:  # noqa: ARG001 (see above)
        return encode(chunk, step)

    return torch.cat([checkpoint(encoded, chunk, there, use_reentrant=False) for chunk in positions.split(size)])


def require_independent_rows(module: nn.Module) -> None:
    """Raises `UsageError` if in training a row's vector depends on other rows, which its part of the batch lacks."""
    for name, layer in module.named_modules():
        if isinstance(layer, _BatchNorm) and layer.training:
            raise UsageError(
                f"{name} normalises over the whole batch, which cannot be computed in parts",
                "Train this model in one process and without chunks, or freeze the tower that this layer is part of.",
            )

"""Adapters: a few low-rank weights learn in place of a large model's own, and are merged into these at the end.

LoRA (Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021) and DoRA (Liu et al., DoRA:
Weight-Decomposed Low-Rank Adaptation, 2024), as peft computes them.
"""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from components.errors import UsageError
from components.training.config import Adapter

LINEAR = (nn.Linear, Conv1D)
ADAPTABLE = (*LINEAR, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
READ_BY_ATTENTION = NonDynamicallyQuantizableLinear  # torch's own attention reads its weight: an adapter goes unused


def add_adapter(module: nn.Module, adapter: Adapter, seed: int) -> nn.Module:
    """Returns `module`, changed in place: it computes what it did, and only the adapter's weights train.

    Raises `UsageError` that names the layers there are if one of the adapter's targets is the name of none.
    """
    chosen = _targets(module, adapter.targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for root, model in _adaptable(module):
            inside = [name.removeprefix(root) for name in chosen if name.startswith(root)]
            if inside:
                config = LoraConfig(
                    r=adapter.rank,
                    lora_alpha=adapter.alpha,  # type: ignore[arg-type]
                    lora_dropout=adapter.dropout,
                    use_dora=adapter.kind == "dora",
                    target_modules=inside,
                )
                inject_adapter_in_model(config, model)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)
    for layer in module.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.train(layer.get_base_layer().training)  # peft leaves it in training mode, with dropout
    return module


def merge_adapter(module: nn.Module) -> None:
    """Merges the adapter into the weights that it adapts: the module is built as it was before `add_adapter`."""
    for parent in list(module.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                setattr(parent, name, layer.get_base_layer())
    for part in module.modules():
        if hasattr(part, "peft_config"):
            del part.peft_config


def _adaptable(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Returns the transformers models within, by the beginning of their layers' names; peft knows no others that hold
    some. A module without any is adapted itself."""
    found: dict[str, nn.Module] = {}
    for name, part in module.named_modules():
        if isinstance(part, PreTrainedModel) and not any(name.startswith(root) for root in found):
            found[f"{name}." if name else ""] = part
    return list(found.items()) or [("", module)]


def _targets(module: nn.Module, targets: list[str]) -> list[str]:
    """Returns the full names of the layers that `targets` name by their last parts; of all linear ones if empty."""
    layers = {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, ADAPTABLE) and not isinstance(layer, READ_BY_ATTENTION)
    }
    named = {target: [name for name in layers if f".{name}".endswith(f".{target}")] for target in targets}
    unknown = [target for target, names in named.items() if not names]
    linear = [name for name, layer in layers.items() if isinstance(layer, LINEAR)]
    chosen = [name for names in named.values() for name in names] if targets else linear
    if unknown or not chosen:
        raise UsageError(
            f"adapter.targets: the model has no layer called {', '.join(unknown)}"
            if unknown
            else "adapter.targets: the model has no linear layer",
            f"Its layers: {', '.join(sorted({_last_part(name) for name in layers})) or 'none that takes an adapter'}.",
        )
    return chosen


def _last_part(name: str) -> str:
    """Returns the end of a layer's name that tells what it is: a bare number, as in a sequence, does not."""
    *rest, last = name.split(".")
    return ".".join([*rest[-1:], last]) if last.isdigit() else last

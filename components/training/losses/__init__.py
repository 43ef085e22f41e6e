"""What training minimises: one loss a file, found by the file's name; a new loss is one new file here.

`losses/NAME.py` holds `class Settings(Section)`, what a recipe may say beside `name` and `weight`, and
`class Loss(losses.Loss)` with its `forward`:

    loss = build("contrastive", {"temperature": 0.05}, dimension=384, teacher_dimensions=[])
    loss(batch).backward()
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, ClassVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from components.errors import UsageError
from components.sections import Section


@dataclass(frozen=True)
class TeacherTargets:
    """One teacher's vectors of a sub-batch, L2-normalised, of the teacher's dimension `d`."""

    queries: Tensor  # (n, d)
    positives: Tensor  # (n, d)
    negatives: Tensor | None = None  # (n, k, d)


@dataclass(frozen=True)
class SubBatch:
    """The rows of one task in one step: the student's vectors, L2-normalised, and what teaches them."""

    queries: Tensor  # (n, dimension)
    positives: Tensor  # (n, dimension)
    negatives: Tensor | None  # (n, k, dimension), each row's own; zero where a row has fewer
    equal: Tensor  # (n, n) bool: rows that share their query or their positive are no negatives of each other
    teachers: tuple[TeacherTargets, ...] = ()
    scores: Tensor | None = None  # (n, 1 + k): a reranker's, of the positive and the negatives

    def prefix(self, dimension: int) -> SubBatch:
        """Returns the sub-batch with the student's vectors cut to `dimension` and normalised again.

        Kusupati et al., Matryoshka Representation Learning (2022). What the teachers say stays as it is.
        """

        def cut(vectors: Tensor) -> Tensor:
            return functional.normalize(vectors[..., :dimension], dim=-1)

        return replace(
            self,
            queries=cut(self.queries),
            positives=cut(self.positives),
            negatives=None if self.negatives is None else cut(self.negatives),
        )

    def similarities(self) -> Tensor:
        """Returns `(n, n + k)`: of each query to every positive, its own on the diagonal, then to its own negatives."""
        among = self.queries @ self.positives.T
        if self.negatives is None:
            return among
        return torch.cat([among, torch.einsum("nd,nkd->nk", self.queries, self.negatives)], 1)

    def excluded(self) -> Tensor:
        """Returns `(n, n + k)` bool: which of the similarities are neither to a positive nor to a negative."""
        others = self.equal & ~torch.eye(len(self.equal), dtype=torch.bool, device=self.equal.device)
        return others if self.negatives is None else torch.cat([others, absent(self.negatives)], 1)


def absent(negatives: Tensor) -> Tensor:
    """Returns `(n, k)` bool: which of `negatives (n, k, dimension)` a row does not have."""
    return (negatives.detach() == 0).all(-1)


class Loss(nn.Module):
    """What every loss is. Its parameters, where it has any, are trained and stored with the model's."""

    of_prefixes: ClassVar[bool] = True  # whether it is applied to each Matryoshka prefix, or to whole vectors alone
    needs_teacher: ClassVar[bool] = False

    def __init__(self, settings: Section, dimension: int, teacher_dimensions: Sequence[int]) -> None:
        super().__init__()
        self.settings: Any = settings

    def forward(self, batch: SubBatch) -> Tensor:
        """Returns the loss of a sub-batch, a scalar."""
        raise NotImplementedError

    def logged(self) -> dict[str, float]:
        """Returns what is worth a curve beside the loss itself, such as a learnt temperature."""
        return {}


def names() -> list[str]:
    """Returns the names of all losses."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def check(name: str, settings: Mapping[str, object]) -> None:
    """Raises `ValueError` that says what is wrong if there is no such loss, or if it does not take the settings."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        suggestion = f", did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown loss {name!r}{suggestion} (known: {', '.join(names())})")
    accepted = _module(name).Settings
    try:
        accepted.model_validate(dict(settings))
    except ValidationError as error:
        faults = "; ".join(_explain(fault, list(accepted.model_fields)) for fault in error.errors())
        raise ValueError(f"loss {name}: {faults}") from error


def build(name: str, settings: Mapping[str, object], dimension: int, teacher_dimensions: Sequence[int]) -> Loss:
    """Returns a loss on the student's vectors of `dimension`; `teacher_dimensions` are those of the teachers'.

    Raises `ValueError` as `check` does, and `UsageError` if the loss learns from a teacher and there is none.
    """
    check(name, settings)
    module = _module(name)
    if module.Loss.needs_teacher and not teacher_dimensions:
        raise UsageError(
            f"loss {name}: learns from a teacher, and this model has none",
            "Take the loss out of the recipe, or train a model that has a teacher with it.",
        )
    loss: Loss = module.Loss(module.Settings.model_validate(dict(settings)), dimension, teacher_dimensions)
    return loss


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")


def _explain(fault: Any, known: Sequence[str]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown setting (known: {', '.join(known) or 'none'})"
    if fault["type"] == "missing":
        return f"{place}: is missing"
    if fault["type"] == "value_error":
        return ": ".join(part for part in (place, fault["msg"].removeprefix("Value error, ")) if part)
    return f"{place}: {fault['msg'].removeprefix('Input ')}, got {fault['input']!r}"

"""What every section of `params.yaml` is made of: frozen models, and the kinds of numbers that occur in them."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Seed = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Port = Annotated[int, Field(ge=0, le=65535)]
Model = TypeVar("Model", bound=BaseModel)


class Section(BaseModel):
    """A mapping of `params.yaml`, frozen once it is read; unknown keys are errors, and nothing is converted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def modules(self) -> list[str]:
        """Returns the modules, of those that are found by their name, which these settings choose."""
        return [module for name in type(self).model_fields for module in _modules(getattr(self, name))]


def demand(model: Model, holds: bool, otherwise: str) -> Model:
    """Returns the model if what it must be like holds; raises `ValueError`, which pydantic reports, if not."""
    if not holds:
        raise ValueError(otherwise)
    return model


def _modules(value: object) -> list[str]:
    if isinstance(value, Section):
        return value.modules()
    return [module for each in value for module in _modules(each)] if isinstance(value, list | tuple) else []

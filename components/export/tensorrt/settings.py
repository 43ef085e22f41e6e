"""The section `export.tensorrt` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.export.tensorrt.builders import BUILDERS
from components.sections import Fraction, Positive, Section, demand

Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Range(Section):
    """The sizes of an axis that an engine takes, and the one that it is fastest at."""

    min: Positive
    opt: Positive
    max: Positive

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        return demand(self, self.min <= self.opt <= self.max, "should be min <= opt <= max")


class TensorRT(Section):
    """`parity_cosine` is the least cosine to the fp32 graphs, over `parity_items` of each modality; `targets` are the
    GPU architectures, such as `sm89`, none of them for the builder's own choice; `length` is of texts, in tokens.
    """

    builder: str = "rtx"
    precision: Precision = "fp16"
    parity_cosine: Fraction = 0.999
    parity_items: Positive = 64
    calibration_items: Positive = 256
    targets: list[Annotated[str, Field(pattern="^sm[0-9]+$")]] = Field(default_factory=list)
    batch: Range = Range(min=1, opt=16, max=64)
    length: Range = Range(min=1, opt=16, max=32)

    def modules(self) -> list[str]:
        return [f"{BUILDERS.package}.{self.builder}"]

    @model_validator(mode="after")
    def _names_a_builder(self) -> Self:
        return demand(self, self.builder in BUILDERS.names(), f"builder should be one of {', '.join(BUILDERS.names())}")

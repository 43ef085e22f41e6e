"""The sections `export` and `serving` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from components.sections import Fraction, Port, Positive, Section, demand


class ParityCosine(Section):
    """The least cosine of each exported variant's vectors to the student's: none is written without proof."""

    fp32: Fraction
    int8: Fraction


class Export(Section):
    opset: Annotated[int, Field(ge=18, le=20)]
    parity_cosine: ParityCosine
    parity_items: Positive


class Serving(Section):
    variant: Literal["fp32", "int8"]
    http_port: Port
    grpc_port: Port
    metrics_port: Port
    threads: Positive
    max_batch_size: Positive
    startup_seconds: Positive

    @model_validator(mode="after")
    def _has_a_port_for_each(self) -> Self:
        ports = [port for port in (self.http_port, self.grpc_port, self.metrics_port) if port]
        return demand(self, len(ports) == len(set(ports)), "two ports are the same; 0 takes any free one")

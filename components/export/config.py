"""The sections `export` and `serving` of `params.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from components.errors import UsageError
from components.export.tensorrt.settings import TensorRT
from components.found_by_name import FoundByName
from components.sections import Fraction, Port, Positive, Rate, Section, demand

AUTO = "auto"
VARIANTS = FoundByName("components.export.variants", "name")


def as_section(value: object) -> object:
    """Returns the settings that `true` and `false` stand for: all as they are by default, and none."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


SWITCH = BeforeValidator(as_section, json_schema_input_type=TensorRT | bool | None)


Measured = Annotated[
    Positive | None,
    BeforeValidator(lambda value: None if value == AUTO else value, json_schema_input_type=Positive | Literal["auto"]),
    PlainSerializer(lambda value: value or AUTO),
]
"""A number that is given, or None for `auto`: it is measured."""


class Export(Section):
    """`rotation: pca` turns a dual encoder to its principal components, so that its vectors may be cut.

    With `max_score_loss` all variants are measured, and that one is chosen which `serving.variant: auto` takes: the
    fastest whose dev score is at most that much below that of fp32, interval included. `tensorrt` is `true` or settings
    of its own where engines are to be built.
    """

    opset: Annotated[int, Field(ge=18, le=20)]
    variants: Annotated[list[Annotated[Any, VARIANTS]], Field(min_length=1)]
    parity_items: Positive
    rotation: Literal["none", "pca"] = "none"
    max_score_loss: Fraction | None = None
    tensorrt: Annotated[TensorRT | None, SWITCH] = None

    @property
    def names(self) -> list[str]:
        """The names of the variants, in their order."""
        return [variant.name for variant in self.variants]

    def modules(self) -> list[str]:
        variants = [f"{VARIANTS.package}.{name}" for name in self.names]
        return variants + (self.tensorrt.modules() if self.tensorrt else [])

    def only(self, names: Sequence[str]) -> Export:
        """Returns the settings for these variants alone. Raises `UsageError` if one of them is not in `variants`."""
        if unknown := [name for name in names if name not in self.names]:
            raise UsageError(
                f"{unknown[0]!r} is not in export.variants, which has {', '.join(self.names)}",
                "Name some of these, or add its settings to params.yaml.",
            )
        return self.model_copy(update={"variants": [one for one in self.variants if one.name in names]})

    @model_validator(mode="after")
    def _names_a_variant_once(self) -> Self:
        return demand(self, len(self.names) == len(set(self.names)), "variants names one of them twice")

    @model_validator(mode="after")
    def _measures_against_fp32(self) -> Self:
        otherwise = "max_score_loss: what is lost is measured against fp32, which variants does not name"
        return demand(self, self.max_score_loss is None or "fp32" in self.names, otherwise)


class Serving(Section):
    """`variant` is one of `export.variants`, or `auto`, which takes the one that the stage `export` has chosen.

    `provider` computes its graphs; `auto` takes the fastest that works where they are served. A model runs in
    `instances` processes of `threads` each; `auto` takes what answers the most items on the machine that packages.
    `response_cache_bytes` is what Triton may keep of former answers, 0 for none. `embedline serve` asks the champion a
    known question every `probe_seconds`; it gives up a process that it has restarted `max_restarts` times within
    `restart_window_seconds`. `servers` are the HTTP addresses of other Tritons that hold the same versions as the one
    of this workspace.
    """

    variant: str
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    http_port: Port
    grpc_port: Port
    metrics_port: Port
    threads: Measured
    instances: Measured = 1
    max_batch_size: Positive
    supervisor_metrics_port: Port = 8003
    response_cache_bytes: Annotated[int, Field(ge=0)] = 0
    startup_seconds: Positive
    probe_seconds: Rate = 5.0
    max_restarts: Positive = 5
    restart_window_seconds: Rate = 300.0
    servers: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_a_port_for_each(self) -> Self:
        named = (self.http_port, self.grpc_port, self.metrics_port, self.supervisor_metrics_port)
        ports = [port for port in named if port]
        return demand(self, len(ports) == len(set(ports)), "two ports are the same; 0 takes any free one")

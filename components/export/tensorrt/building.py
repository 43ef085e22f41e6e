"""Builds an engine from an ONNX graph, with whatever builder is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import Refused
from components.export.tensorrt.builders import builder_of
from components.export.tensorrt.engine import Engine, demand_shapes, name
from components.export.tensorrt.graph import Profile, Tensor, profiles, signature
from components.export.tensorrt.settings import TensorRT
from components.files import file_sha256

CACHE = "timing.cache"


@dataclass(frozen=True)
class Built:
    """The bytes of an engine, and what the builder took the network to be."""

    plan: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: dict[str, Profile]
    seconds: float


def build_engine(graph: Path, network: Path, settings: TensorRT, kept: tuple[str, ...] = ()) -> tuple[Engine, float]:
    """Writes beside `network`, which is `graph` in the precision, its engine, and what describes that.

    Returns the description, and the seconds that the build took. Raises `UsageError` if the builder cannot build here,
    and `Refused`, which names the node, if it does not take the graph, or if the engine does not have its inputs.
    """
    builder = builder_of(settings.builder)
    version = builder.api().__version__
    wanted = profiles(signature(graph), settings)
    built = build_plan(network, wanted, settings)
    short = ".".join(version.split(".")[:3])
    target = builder.target(settings.targets)
    path = network.parent / f"{graph.stem}.{settings.builder}-{short}.{target}.{settings.precision}.engine"
    path.write_bytes(built.plan)
    engine = Engine(
        file=path.name,
        builder=settings.builder,
        version=version,
        targets=tuple(settings.targets),
        precision=settings.precision,
        kept=kept,
        graph=graph.name,
        network=network.name,
        graph_sha256=file_sha256(graph),
        network_sha256=file_sha256(network),
        engine_sha256=file_sha256(path),
        bytes=len(built.plan),
        inputs=built.inputs,
        outputs=built.outputs,
        profiles=built.profiles,
    )
    engine.write(path.parent)
    demand_shapes(engine, graph, wanted)
    return engine, built.seconds


def build_plan(network: Path, wanted: Mapping[str, Profile], settings: TensorRT) -> Built:
    """Returns the engine of an ONNX file. Raises `Refused` as `build_engine` does."""
    builder, cache = builder_of(settings.builder), network.with_name(CACHE)
    api = builder.api()
    start, log = time.perf_counter(), messages(api)
    maker = api.Builder(log)
    definition = maker.create_network(1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parse(api, definition, network, log)
    config = maker.create_builder_config()
    builder.configure(api, config, settings.targets, cache)
    profile = maker.create_optimization_profile()
    for tensor, shapes in wanted.items():
        profile.set_shape(tensor, shapes.min, shapes.opt, shapes.max)
    if not profile or config.add_optimization_profile(profile) < 0:
        raise Refused(f"{network.name}: the builder refuses the profile: {log.errors()}", "Look at export.tensorrt.")
    inputs = tuple(described(definition.get_input(number)) for number in range(definition.num_inputs))
    outputs = tuple(described(definition.get_output(number)) for number in range(definition.num_outputs))
    set_profiles = {each: Profile(*map(tuple, profile.get_shape(each))) for each in wanted}
    definition.name = name(file_sha256(network), inputs, outputs, set_profiles)
    plan = maker.build_serialized_network(definition, config)
    if plan is None:
        raise Refused(f"{network.name}: no engine can be built: {log.errors()}", "Look for the node that it names.")
    builder.finish(config, cache)
    return Built(bytes(plan), inputs, outputs, set_profiles, time.perf_counter() - start)


def parse(api: Any, definition: Any, network: Path, log: Any) -> None:
    """Raises `Refused`, which names the node and its operator, if the parser does not take the graph."""
    parser = api.OnnxParser(definition, log)
    if parser.parse_from_file(str(network)):
        return
    reasons = [parser.get_error(number) for number in range(parser.num_errors)]
    found = "; ".join(
        f"the node {reason.node_name() or reason.node()} ({reason.node_operator()}): "
        f"{'it has no such operator' if reason.desc() == 'false' else reason.desc()}"
        for reason in reasons
    )
    raise Refused(f"{network.name}: TensorRT does not take {found}", "Export the model without that operator.")


def described(tensor: Any) -> Tensor:
    return Tensor(tensor.name, tensor.dtype.name.lower(), tuple(tensor.shape))


def messages(api: Any) -> Any:
    """Returns a logger of TensorRT that keeps the errors."""

    class Messages(api.ILogger):
        def __init__(self) -> None:
            api.ILogger.__init__(self)
            self.texts: list[str] = []

        def log(self, severity: Any, text: str) -> None:
            if severity <= api.ILogger.Severity.ERROR and "Thread context" not in text:
                self.texts.append(text)

        def errors(self) -> str:
            return "; ".join(self.texts) or "it does not say why"

    return Messages()

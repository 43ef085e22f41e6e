"""The engines of an exported model, in the highest share of half precision that answers as the float32 graphs do."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from components.corpus import Item
from components.embedder import OnnxEmbedder
from components.embedder.embedders import RUNTIME
from components.errors import Refused, UsageError
from components.export.parity import Parity, demand, parity
from components.export.sample import choose, of_each_modality
from components.export.tensorrt.builders import builder_of
from components.export.tensorrt.building import build_engine
from components.export.tensorrt.casting import STEPS, cast
from components.export.tensorrt.engine import Engine
from components.export.tensorrt.execution import EngineSession
from components.export.tensorrt.gpu import missing_gpu
from components.export.tensorrt.graph import Signature, profiles, signature
from components.export.tensorrt.quantising import quantise
from components.export.tensorrt.reading import read_engine
from components.export.tensorrt.recording import Inputs, outside, record, replace_sessions
from components.export.tensorrt.settings import TensorRT
from components.export.tensorrt.triton import CONFIG, VERSION, triton_config
from components.files import atomic_directory

REPORT = "tensorrt.json"
TIMED_RUNS = 20
QUANTISED_STEPS: tuple[tuple[str, ...], ...] = ((), ("last projection",))
MEASURED_ON = {
    "fp16": "ONNX Runtime on the processor: float32, every number rounded to float16 between nodes",
    "bf16": "ONNX Runtime on the processor: float32, every number rounded to bfloat16 between nodes",
    "int8": "ONNX Runtime on the processor: float32, every quantised number rounded to int8",
}


@dataclass(frozen=True)
class Step:
    """The parity of the model with `kept` in float32; `measured_on` says what computed the vectors."""

    kept: tuple[str, ...]
    measured_on: str
    parity: Parity


def export_tensorrt(graphs: Path, output: Path, settings: TensorRT, items: Sequence[Item]) -> list[Engine]:
    """Writes to `output` a folder for each graph in the directory `graphs`, as Triton takes it, and `tensorrt.json`.

    `graphs` is an exported directory in float32; `items` are like those to come: they calibrate int8, and show how near
    the engines' vectors are. Raises `UsageError` if the builder cannot build here, and `Refused`, with nothing written,
    if a graph is not taken, if an item does not fit a profile, or if the vectors are too far from those of `graphs`.
    """
    builder_of(settings.builder)
    sample, calibration = of_each_modality(items, settings.parity_items), choose(items, settings.calibration_items)
    of_sample, of_calibration = record(graphs, sample), record(graphs, calibration)
    for recorded in (of_sample, of_calibration):
        demand_fit(graphs, recorded, settings)
    with atomic_directory(output) as partial:
        kept, steps = write_networks(graphs, partial, settings, sample, of_calibration)
        engines, seconds = [], {}
        for graph in graphs_in(graphs):
            network = network_of(graph, partial, settings)
            engine, seconds[graph.stem] = build_engine(graph, network, settings, kept)
            read_engine(network.with_name(engine.file), graph, settings)
            (partial / graph.stem / CONFIG).write_text(triton_config(graph.stem, engine), encoding="utf-8")
            engines.append(engine)
        report = {
            "engines": {engine.file: {"bytes": engine.bytes} for engine in engines},
            "build_seconds": seconds,
            "kept": kept,
            "parity": [asdict(step) for step in steps],
        } | on_gpu(graphs, partial, engines, settings, sample, of_sample)
        (partial / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return engines


def graphs_in(directory: Path) -> list[Path]:
    """Returns the graphs of an exported directory. Raises `UsageError` if there is none."""
    found = sorted(directory.glob("*.onnx"))
    if not found:
        raise UsageError(f"{directory} holds no graph", "Name a directory that the stage export has written.")
    return found


def network_of(graph: Path, output: Path, settings: TensorRT) -> Path:
    """Returns where the network of a graph lies, which is the graph in the precision of its engine."""
    return output / graph.stem / VERSION / f"{graph.stem}.{settings.precision}.onnx"


def demand_fit(graphs: Path, recorded: Mapping[frozenset[str], Sequence[Inputs]], settings: TensorRT) -> None:
    """Raises `Refused` if an item makes an input that the profiles do not hold, or no session computes a graph."""
    for graph in graphs_in(graphs):
        found = signature(graph)
        if found.names not in recorded:
            raise Refused(f"no session in {graphs / RUNTIME} computes {graph.name}", "Make each one an attribute.")
        wrong = outside(recorded[found.names], profiles(found, settings))
        if wrong is not None:
            raise Refused(f"{graph.name}: of an item, {wrong}", "Widen the ranges in export.tensorrt.")


def write_networks(
    graphs: Path,
    output: Path,
    settings: TensorRT,
    sample: Sequence[Item],
    calibration: Mapping[frozenset[str], Sequence[Inputs]],
) -> tuple[tuple[str, ...], list[Step]]:
    """Writes the networks that are like the graphs with the fewest families in float32; returns those, and each step.

    Raises `Refused` if even the last step is not alike. The float32 graphs themselves are measured only on a GPU.
    """
    steps: list[Step] = []
    reference = OnnxEmbedder(graphs)
    for graph in graphs_in(graphs):
        network_of(graph, output, settings).parent.mkdir(parents=True)
    if settings.precision == "fp32":
        for graph in graphs_in(graphs):
            onnx.save(onnx.load(graph), network_of(graph, output, settings))
        return (), steps
    for kept in QUANTISED_STEPS if settings.precision == "int8" else STEPS:
        measured = OnnxEmbedder(graphs)
        by_names = {}
        for graph in graphs_in(graphs):
            network, names = network_of(graph, output, settings), signature(graph).names
            if settings.precision == "int8":
                if not calibration[names]:
                    raise Refused(f"no item shows the ranges of {graph.name}", "Raise calibration_items.")
                quantise(graph, network, calibration[names], kept)
                computed = onnx.load(network)
            else:
                model = onnx.load(graph)
                onnx.save(cast(model, settings.precision, kept), network)
                computed = cast(model, settings.precision, kept, rounded=True)
            by_names[names] = literal_session(computed)
        replace_sessions(measured, by_names)
        steps.append(Step(kept, MEASURED_ON[settings.precision], parity(reference, measured, sample)))
        if steps[-1].parity.minimum >= settings.parity_cosine:
            break
    demand(steps[-1].parity, f"TensorRT {settings.precision}", settings.parity_cosine)
    return kept, steps


def literal_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Returns a session that computes every node as it is written: no rounding is optimised away."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def on_gpu(
    graphs: Path,
    output: Path,
    engines: Sequence[Engine],
    settings: TensorRT,
    sample: Sequence[Item],
    recorded: Mapping[frozenset[str], Sequence[Inputs]],
) -> dict[str, Any]:
    """Returns what only running engines shows, or why it is not known. Raises `Refused` if they answer otherwise."""
    missing = missing_gpu()
    if missing is not None:
        return {"executed": None, "not_executed": missing}
    by_names: dict[frozenset[str], EngineSession] = {}
    milliseconds = {}
    for graph, engine in zip(graphs_in(graphs), engines, strict=True):
        names = signature(graph).names
        session = by_names[names] = EngineSession(network_of(graph, output, settings).with_name(engine.file))
        milliseconds[graph.stem] = median_milliseconds(session, signature(graph), recorded[names][0])
    executed = OnnxEmbedder(graphs)
    replace_sessions(executed, by_names)
    found = parity(OnnxEmbedder(graphs), executed, sample)
    demand(found, f"TensorRT {settings.precision}", settings.parity_cosine)
    return {"executed": {"parity": asdict(found), "milliseconds": milliseconds}}


def median_milliseconds(session: EngineSession, found: Signature, inputs: Inputs) -> dict[str, float]:
    """Returns the median milliseconds of a batch, of one item and of as many as are there, by the batch's size."""
    medians = {}
    for size in sorted({1, len(next(iter(inputs.values())))}):
        batch, times = {name: value[:size] for name, value in inputs.items()}, []
        for _ in range(TIMED_RUNS):
            start = time.perf_counter()
            session.run([output.name for output in found.outputs], batch)
            times.append(1000 * (time.perf_counter() - start))
        medians[str(size)] = statistics.median(times)
    return medians

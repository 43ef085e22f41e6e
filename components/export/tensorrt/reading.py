"""Reads engines back: is the file still what the builder wrote, and does it take what the graph takes?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.errors import Refused
from components.export.tensorrt.builders import builder_of
from components.export.tensorrt.building import messages
from components.export.tensorrt.engine import Engine, demand_shapes, description
from components.export.tensorrt.gpu import missing_gpu
from components.export.tensorrt.graph import Profile, Tensor, profiles, signature
from components.export.tensorrt.settings import TensorRT
from components.files import file_sha256

NO_GPU = re.compile(r"cudaError (35|100)\b")
"""No driver, and no device: all that is wrong with a whole engine where there is no GPU."""


def read_engine(path: Path, graph: Path, settings: TensorRT) -> Engine:
    """Returns the description of an engine, once the engine itself has proved to be what it says.

    Where there is a GPU, the engine is loaded, and says what it takes. Where there is none, TensorRT reads no more than
    its header (magic number and size); what it takes is then known by its name, which the builder has written
    into it. Raises `Refused` if the engine is damaged, of another version or graph, or takes other shapes than
    `settings` ask for.
    """
    engine = Engine.read(path)
    network = path.with_name(engine.network)
    digests = ((graph, engine.graph_sha256), (network, engine.network_sha256), (path, engine.engine_sha256))
    for file, digest in digests:
        if not file.is_file() or file_sha256(file) != digest:
            raise Refused(f"{description(path)} describes another {file.name} than {file}", "Build the engine again.")
    version = builder_of(engine.builder).api().__version__
    if engine.version != version:
        raise Refused(f"{path} is of {engine.builder} {engine.version}, and here is {version}", "Build it again.")
    wanted = profiles(signature(graph), settings)
    demand_shapes(engine, graph, wanted)
    loaded = load(path, engine.builder)
    if loaded is not None:
        demand_shapes(as_loaded(engine, loaded), graph, wanted)
    if engine.name.encode() not in path.read_bytes():
        raise Refused(f"{path} was not built for what {description(path)} says of it", "Build it again.")
    return engine


def load(path: Path, builder: str) -> Any | None:
    """Returns the engine as TensorRT loads it, None where there is no GPU to load it for.

    Raises `Refused` if TensorRT finds the file damaged or of another version.
    """
    api = builder_of(builder).api()
    log = messages(api)
    loaded = api.Runtime(log).deserialize_cuda_engine(path.read_bytes())
    serious = [text for text in log.texts if not NO_GPU.search(text)]
    if loaded is None and (serious or missing_gpu() is None):
        raise Refused(f"{path} is no whole engine of this version: {'; '.join(log.texts)}", "Build it again.")
    return loaded


def as_loaded(engine: Engine, loaded: Any) -> Engine:
    """Returns the description with what the loaded engine says of itself."""
    names = [loaded.get_tensor_name(number) for number in range(loaded.num_io_tensors)]
    tensors = {
        name: Tensor(name, loaded.get_tensor_dtype(name).name.lower(), tuple(loaded.get_tensor_shape(name)))
        for name in names
    }
    inputs = [name for name in names if loaded.get_tensor_mode(name).name == "INPUT"]
    return replace(
        engine,
        inputs=tuple(tensors[name] for name in inputs),
        outputs=tuple(tensors[name] for name in names if name not in inputs),
        profiles={
            name: Profile(*(tuple(shape) for shape in loaded.get_tensor_profile_shape(name, 0))) for name in inputs
        },
    )

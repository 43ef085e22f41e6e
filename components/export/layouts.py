"""Model repositories for GPU containers: a bundle whose graphs Triton's own backends compute.

embedder/          the python model of the bundle, all but its graphs: preprocessing, and the sum of an item's parts
text_tower/ ...    a graph of it, for the backend `onnxruntime` or `tensorrt`, under the same version number

The python model asks the graphs by BLS calls (business logic scripting). An ensemble would be fixed wiring: it cannot
leave a tower out where an item has only text or only an image, nor encode what several items share once.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.errors import UsageError
from components.export.bundle import MODEL, TRITON_CONFIG, VERSION
from components.export.tensorrt.engine import Engine
from components.export.tensorrt.graph import Profile, Tensor, signature
from components.export.tensorrt.triton import TYPES
from components.files import atomic_directory, file_sha256

Layout = Literal["onnxruntime", "tensorrt"]
BUILDER = "tensorrt"
WARM_UP_SIZE = 16
PARAMETER = 'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'
TEMPLATE = """name: "{name}"
{backend}
default_model_filename: "{file}"
max_batch_size: 0
input [
{inputs}
]
output [
{outputs}
]
instance_group [ {{ kind: {kind} count: 1 }} ]
model_warmup [ {{
  name: "zeros"
{samples}
}} ]
"""


@dataclass(frozen=True)
class Graph:
    """What a backend computes: the files of one graph, of which `file` is the one to load.

    `profiles` are the shapes that an engine takes; a graph of ONNX has none.
    """

    name: str
    file: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: dict[str, Profile]

    @property
    def files(self) -> list[Path]:
        """The file and its weights, where they lie outside."""
        return [self.file, *self.file.parent.glob(f"{self.file.name}.*data")]


def write_repository(
    bundle: Path, version: int, layout: Layout, output: Path, engines: Path | None = None, on_gpu: bool = True
) -> list[str]:
    """Writes a Triton model repository that serves the bundle as `version`; returns the names of its models.

    `engines` is what `export_tensorrt` has written, for the layout `tensorrt`. Raises `UsageError` if the layout cannot
    serve the bundle; nothing is written then.
    """
    graphs = engine_graphs(bundle, engines) if layout == "tensorrt" else onnx_graphs(bundle)
    taken = {file.name for graph in onnx_graphs(bundle) for file in graph.files}
    with atomic_directory(output) as partial:
        folder = partial / MODEL / str(version)
        shutil.copytree(bundle / VERSION, folder, ignore=lambda *_: taken)
        shutil.copyfile(Path(__file__).with_name("triton_model.py"), folder / "model.py")
        config = (bundle / TRITON_CONFIG).read_text(encoding="utf-8").replace("KIND_GPU", "KIND_CPU")
        config += PARAMETER.format(name="graphs", value="triton")
        if largest := min((profile.max[0] for graph in graphs for profile in graph.profiles.values()), default=None):
            config += PARAMETER.format(name="batch_size", value=largest)
        (partial / MODEL / TRITON_CONFIG).write_text(config, encoding="utf-8")
        for graph in graphs:
            target = partial / graph.name / str(version)
            target.mkdir(parents=True)
            for file in graph.files:
                shutil.copyfile(file, target / file.name)
            (target.parent / TRITON_CONFIG).write_text(graph_config(graph, layout, on_gpu), encoding="utf-8")
    return [MODEL, *(graph.name for graph in graphs)]


def onnx_graphs(bundle: Path) -> list[Graph]:
    """Returns the graphs of a bundle. Raises `UsageError` if they are OpenVINO's."""
    files = sorted((bundle / VERSION).glob("*.onnx"))
    if not files:
        raise UsageError(f"{bundle} holds no ONNX graph", "Package a variant whose graphs are ONNX, such as fp32.")
    return [Graph(tower(file), file, found.inputs, found.outputs, {}) for file in files for found in [signature(file)]]


def engine_graphs(bundle: Path, engines: Path | None) -> list[Graph]:
    """Returns the engines of a bundle's graphs. Raises `UsageError` if there are none that Triton's backend loads."""
    found = []
    for graph in onnx_graphs(bundle):
        folder = (engines or Path()) / graph.file.stem
        description = next(folder.rglob("*.json"), None) if engines else None
        if description is None:
            raise UsageError(
                f"there is no engine of {graph.file.name}", "Build them: export.tensorrt with `builder: tensorrt`."
            )
        engine = Engine.read(description)
        if engine.builder != BUILDER:
            raise UsageError(
                f"{engine.file} was built by {engine.builder}, which Triton does not load",
                "Build it with `builder: tensorrt` on a machine that has TensorRT.",
            )
        if engine.graph_sha256 != file_sha256(graph.file):
            raise UsageError(
                f"{engine.file} was built from another graph than {graph.file}",
                "Package the variant fp32 of the export that the engines were built from.",
            )
        file = description.with_name(engine.file)
        found.append(Graph(graph.name, file, engine.inputs, engine.outputs, engine.profiles))
    return found


def tower(graph: Path) -> str:
    """Returns the name of the Triton model that computes a graph; `triton_model.py` asks for it."""
    return f"{graph.stem}_tower"


def graph_config(graph: Graph, layout: Layout, on_gpu: bool) -> str:
    """Returns the text of a graph's `config.pbtxt`.

    The python model sends whole batches, so the graph has no batches of its own and every axis is named.
    """
    return TEMPLATE.format(
        name=graph.name,
        backend='platform: "tensorrt_plan"' if layout == "tensorrt" else 'backend: "onnxruntime"',
        file=graph.file.name,
        inputs=",\n".join(map(entry, graph.inputs)),
        outputs=",\n".join(map(entry, graph.outputs)),
        kind="KIND_GPU" if on_gpu else "KIND_CPU",
        samples="\n".join(sample(tensor, graph.profiles.get(tensor.name)) for tensor in graph.inputs),
    )


def entry(tensor: Tensor) -> str:
    dimensions = ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in tensor.shape)
    return f'  {{ name: "{tensor.name}" data_type: {TYPES[tensor.dtype]} dims: [ {dimensions} ] }}'


def sample(tensor: Tensor, profile: Profile | None) -> str:
    """Returns an input of the warm-up: of the size that an engine is tuned for, else small."""
    small = [axis if isinstance(axis, int) and axis > 0 else WARM_UP_SIZE for axis in tensor.shape]
    dimensions = ", ".join(map(str, profile.opt if profile else small))
    kind = TYPES[tensor.dtype]
    return f'  inputs {{ key: "{tensor.name}" value {{ data_type: {kind} dims: [ {dimensions} ] zero_data: true }} }}'

"""What an engine is: the JSON beside it, and what it must be like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from components.errors import Refused
from components.export.tensorrt.graph import Profile, Tensor, signature


@dataclass(frozen=True)
class Engine:
    """The JSON beside an engine. `kept` are the families of nodes that stay float32; `graph` is the float32 one, and
    `network`, which lies beside the engine, is that graph in `precision`. Shapes are those of the parsed network, where
    -1 is a free axis.
    """

    file: str
    builder: str
    version: str
    targets: tuple[str, ...]
    precision: str
    kept: tuple[str, ...]
    graph: str
    network: str
    graph_sha256: str
    network_sha256: str
    engine_sha256: str
    bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: dict[str, Profile]

    @property
    def name(self) -> str:
        """What the engine is called inside, a digest of the network and of all that the engine takes."""
        return name(self.network_sha256, self.inputs, self.outputs, self.profiles)

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        description(folder / self.file).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Engine:
        """Returns the description of the engine at `path`. Raises `Refused` if there is none, or if it is not whole."""
        try:
            found = json.loads(description(path).read_text(encoding="utf-8"))
            for name in ("inputs", "outputs"):
                found[name] = tuple(Tensor(**each | {"shape": tuple(each["shape"])}) for each in found[name])
            found["profiles"] = {
                name: Profile(**{end: tuple(shape) for end, shape in each.items()})
                for name, each in found["profiles"].items()
            }
            return cls(**found | {"targets": tuple(found["targets"]), "kept": tuple(found["kept"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"{description(path)} does not describe an engine: {error}", "Build it again.") from error


def name(
    network_sha256: str, inputs: Iterable[Tensor], outputs: Iterable[Tensor], profiles: Mapping[str, Profile]
) -> str:
    tensors = [[asdict(each) for each in group] for group in (inputs, outputs)]
    shapes = {name: asdict(profile) for name, profile in profiles.items()}
    content = json.dumps([network_sha256, tensors, shapes], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def description(engine: Path) -> Path:
    return engine.with_suffix(".json")


def demand_shapes(engine: Engine, graph: Path, wanted: Mapping[str, Profile]) -> None:
    """Raises `Refused` if an engine has not the inputs and outputs of a graph, or other profiles than the wanted."""
    found = signature(graph)
    for what, has, should in (
        ("inputs", by_name(engine.inputs), by_name(free_axes(found.inputs))),
        ("outputs", by_name(engine.outputs), by_name(free_axes(found.outputs))),
        ("profiles", engine.profiles, dict(wanted)),
    ):
        if has != should:
            raise Refused(f"{engine.file}: the {what} are {has}, and should be {should}", "Build it again.")


def by_name(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {each.name: each for each in tensors}


def free_axes(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(each.name, each.dtype, tuple(-1 if isinstance(axis, str) else axis for axis in each.shape))
        for each in tensors
    )

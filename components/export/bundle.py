"""The serving bundle: one Triton model version with all that it needs, and what proves and watches it.

config.pbtxt, version/    what is served; `fingerprint` in bundle.json covers every byte of it
bundle.json               what the bundle is, and items whose vectors are known
examples.npy, examples/   those vectors, and the images of those items
reference.npz             the reference window for drift
model_card.md, .html
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from components.corpus import Item, Manifest
from components.embedder import OnnxEmbedder, Vectors, fingerprint
from components.errors import Refused
from components.export.capacity import Capacity, choose_capacity
from components.export.choice import served_variant
from components.export.config import Serving
from components.export.licences import OURS, UNKNOWN, spdx, together
from components.export.reference_window import reference_window
from components.export.sample import of_each_modality, training_items
from components.files import atomic_directory
from components.markdown import as_html

MODEL = "embedder"
DESCRIPTION, TRITON_CONFIG, VERSION, EXPECTED = "bundle.json", "config.pbtxt", "version", "examples.npy"
REFERENCE, CARD, CARD_PAGE = "reference.npz", "model_card.md", "model_card.html"
SERVER_FILE = "model.py"
AGAIN = "Run the line again: `embedline run` packages what it has scored."
EXAMPLES_A_MODALITY = 3
TRITON_TEMPLATE = """name: "{name}"
backend: "python"
max_batch_size: {max_batch_size}
dynamic_batching {{ }}
input [
  {{ name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "INSTRUCTION" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "DIMENSION" data_type: TYPE_INT32 dims: [ 1 ] optional: true }}
]
output [ {{ name: "EMBEDDING" data_type: TYPE_FP32 dims: [ -1 ] }} ]
instance_group [ {{ kind: {kind} count: {instances} }} ]
parameters {{ key: "threads" value {{ string_value: "{threads}" }} }}
parameters {{ key: "provider" value {{ string_value: "{provider}" }} }}
"""
RESPONSE_CACHE = "response_cache { enable: true }\n"


@dataclass(frozen=True)
class Bundle:
    """The content of `bundle.json`. `fingerprint` identifies what is served, `model_fingerprint` the scored model.

    An example has `text`, `image` (a path in the bundle) and `instruction`, each possibly None; `expected` is the file
    of the examples' vectors, `(n, dimension)` float32. `capacity` is what was measured where threads or instances were
    to be chosen. `licences` are SPDX expressions by the paths of all files.
    """

    model_name: str
    dimension: int
    variant: str
    fingerprint: str
    model_fingerprint: str
    dataset_digest: str
    examples: list[dict[str, str | None]]
    expected: str
    capacity: list[dict[str, float]] = field(default_factory=list)
    licences: dict[str, str] = field(default_factory=dict)


def package(config: Serving, onnx: Path, data: Path, output: Path, card: str, weights_licence: str = UNKNOWN) -> Bundle:
    """Writes the bundle of the variant that `config` names or leaves to choose, from what `export` wrote to `onnx`.

    `card` is the model card in Markdown, `weights_licence` that of what weights and tokenizer were made from, an SPDX
    expression. The same input gives the same bytes, unless threads or instances are `auto`
    and so measured here. The vectors of the examples and of the
    reference window are those of the code that is packed. Raises `Refused` if an example's image is no file, and as
    `served_variant` does.
    """
    variant = served_variant(config, onnx)
    model = onnx / variant
    with atomic_directory(output) as partial:
        write_version(model, partial / VERSION)
        items = of_each_modality(training_items(data), EXAMPLES_A_MODALITY)
        chosen, tried = choose_capacity(config, partial / VERSION, items)
        embedder = OnnxEmbedder(partial / VERSION, threads=chosen.threads, provider=config.provider)
        (partial / TRITON_CONFIG).write_text(triton_config(config, chosen), encoding="utf-8")
        manifest = Manifest.read(data)
        examples = [write_example(item, number, partial) for number, item in enumerate(items)]
        np.save(partial / EXPECTED, embedder.encode(items))
        window: dict[str, Any] = reference_window(embedder, data)
        np.savez(partial / REFERENCE, **window)
        (partial / CARD).write_text(card, encoding="utf-8")
        (partial / CARD_PAGE).write_text(as_html(card), encoding="utf-8")
        bundle = Bundle(
            model_name=MODEL,
            dimension=embedder.dimension,
            variant=variant,
            fingerprint=served_fingerprint(partial),
            model_fingerprint=fingerprint(model),
            dataset_digest=manifest.digest,
            examples=examples,
            expected=EXPECTED,
            capacity=[asdict(one) for one in tried],
            licences=licences(partial, weights_licence, together(map(spdx, manifest.licence))),
        )
        (partial / DESCRIPTION).write_text(json.dumps(asdict(bundle), indent=2, ensure_ascii=False) + "\n", "utf-8")
    return bundle


def read_bundle(directory: Path) -> Bundle:
    """Returns what a bundle says about itself."""
    return Bundle(**json.loads((directory / DESCRIPTION).read_text(encoding="utf-8")))


def read_examples(directory: Path) -> tuple[list[Item], Vectors]:
    """Returns the examples of a bundle, and the vectors that whoever serves it must answer."""
    bundle = read_bundle(directory)
    items = [
        Item(
            example["text"],
            directory / image if (image := example["image"]) else None,
            instruction=example["instruction"],
        )
        for example in bundle.examples
    ]
    vectors: Vectors = np.load(directory / bundle.expected)
    return items, vectors


def served_fingerprint(bundle: Path) -> str:
    """Returns one SHA-256 over all that a server reads of a bundle: its version folder and its configuration."""
    configuration = hashlib.sha256((bundle / TRITON_CONFIG).read_bytes()).hexdigest()
    return hashlib.sha256(f"{fingerprint(bundle / VERSION)}{configuration}".encode()).hexdigest()


def require_scored(bundle: Path, scored: str) -> None:
    """Raises `Refused` unless the bytes that a bundle ships, but for the server's own file, have the fingerprint of the
    model that was scored, and those that a server reads the one that the bundle says of itself."""
    version = bundle / VERSION
    if fingerprint(version, without=version / SERVER_FILE) != scored:
        raise Refused(f"{version} holds another model than the one that was scored", AGAIN)
    if served_fingerprint(bundle) != read_bundle(bundle).fingerprint:
        raise Refused(f"{bundle} was changed after it was packaged", AGAIN)


def licences(bundle: Path, weights: str, data: str) -> dict[str, str]:
    """Returns the licence of each file of a bundle, of its description too, by its path in it."""
    files = {file.relative_to(bundle) for file in bundle.rglob("*") if file.is_file()} | {Path(DESCRIPTION)}
    return {file.as_posix(): file_licence(file, weights, data) for file in sorted(files)}


def file_licence(path: Path, weights: str, data: str) -> str:
    """Returns the licence of a bundle's file by its path there: `weights` is that of what the weights and the
    tokenizer were made from, `data` that of the data that the examples were taken from."""
    if path.suffix == ".py" or path.as_posix() in (TRITON_CONFIG, DESCRIPTION, CARD, CARD_PAGE):
        return OURS
    return weights if path.parts[0] == VERSION else data


def triton_config(serving: Serving, capacity: Capacity) -> str:
    config = TRITON_TEMPLATE.format(
        name=MODEL,
        max_batch_size=serving.max_batch_size,
        kind="KIND_GPU" if serving.provider in ("cuda", "tensorrt") else "KIND_CPU",
        threads=capacity.threads,
        instances=capacity.instances,
        provider=serving.provider,
    )
    return config + (RESPONSE_CACHE if serving.response_cache_bytes else "")


def write_version(model: Path, folder: Path) -> None:
    """Writes the content of a numbered version folder: what the stage `export` wrote, and the server's `model.py`."""
    folder.mkdir()
    for file in sorted(model.iterdir()):
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(Path(__file__).with_name("triton_model.py"), folder / SERVER_FILE)


def write_example(item: Item, number: int, bundle: Path) -> dict[str, str | None]:
    """Returns the example as bundle.json holds it; its image, if it has one, is copied into the bundle."""
    image = None
    if item.image is not None:
        if not isinstance(item.image, Path):
            raise Refused(f"example {number}: its image is no file", "Package from a data set that ingest has written.")
        image = f"examples/{number}{item.image.suffix}"
        (bundle / image).parent.mkdir(exist_ok=True)
        shutil.copyfile(item.image, bundle / image)
    return {"text": item.text, "image": image, "instruction": item.instruction}

"""The same CLIP of ViT-B/32's sizes, with random weights, served by Embedline and by infinity-emb, asked by turns.

infinity-emb needs packages of its own:

    python3 -m venv /tmp/infinity && /tmp/infinity/bin/pip install torch "infinity-emb[server]==0.0.78" pillow \
        "transformers==4.48.3" "sentence-transformers==3.4.1" "datasets<4" "pyarrow<21" "typer<0.13" "click<8.2"
    python benchmarks/infinity.py --python /tmp/infinity/bin/python
    python benchmarks/infinity.py --python /tmp/infinity/bin/python --variant int8

Texts are words, images JPEG files of 640 x 480 pixels, a request is one item. infinity-emb has two threads and uses
float32; Embedline has the threads and instances that it measures, and uses float32 or the int8 that it would ship. The
least cosine between the two sides' vectors is printed first.
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import local
from typing import Annotated, Literal

from components.quiet import configure

configure()

# isort: split
import numpy as np
import torch
import typer
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from components.backends.tiny import write_tiny
from components.backends.whole_model import load_whole
from components.corpus import Item
from components.embedder import OnnxEmbedder
from components.export.bundle import MODEL as SERVED
from components.export.exporters import calibration_of, exporter_of
from components.export.quantisation import quantise
from export import OPSET, text_items
from serving_speed import Ask, asking, by_turns, demand_equal, image_items, one_by_one, served
from table import Row, show

AT_LEAST, THREADS, START_SECONDS = 2.0, 2, 180
SIZE, PROCESSOR = 224, "processor_config.json"
OLDER_NAMES = {"image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor"}
"""What transformers 4 calls the processor of images."""


def main(
    python: Annotated[Path, typer.Option(help="The Python of the environment that has infinity-emb.")],
    variant: Annotated[Literal["fp32", "int8"], typer.Option(help="What Embedline serves.")] = "fp32",
    seconds: Annotated[float, typer.Option(help="How long each measurement takes.")] = 4.0,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_model(folder / "clip")
        shutil.copytree(folder / "clip", folder / "infinity")
        (folder / "infinity" / PROCESSOR).unlink()  # transformers 4 takes preprocessor_config.json alone
        load_whole(str(folder / "clip"), None, 0).save(str(folder / "model"), create_model_card=False)
        items = {"text": [Item(str(each.text)[:40]) for each in text_items(100)], "image": image_items(50)}
        exported = folder / ("exported" if variant == "int8" else "graphs")
        exporter_of(folder / "model").export(folder / "model", exported, OPSET)
        if variant == "int8":
            quantise(exported, folder / "graphs", calibration_of(exported, items["image"], len(items["image"])))
        embedder = OnnxEmbedder(folder / "graphs", threads=THREADS)
        rows = []
        with served(folder, embedder.dimension) as server, infinity(python, folder / "infinity") as port:
            sides = {"Triton": asking(server, SERVED), "infinity": asking_infinity(port)}
            for kind, asked in items.items():
                demand_equal(sides["Triton"], embedder, asked)
                answers = np.asarray(asking_infinity(port)(asked[:20]))  # it hangs up on a connection that rests
                cosine = float((answers * embedder.encode(asked[:20])).sum(axis=1).min())
                rows.append(Row(f"{kind}: least cosine between the two", cosine, ""))
                rows += [row for each in (1, 8, 16) for row in compared(kind, sides, asked, each, seconds)]
    show(f"CLIP ViT-B/32, {variant}, beside infinity-emb", rows, machine, "in brackets: the peer")


def compared(
    kind: str, sides: dict[str, Ask], items: Sequence[Item], concurrency: int, seconds: float
) -> Iterator[Row]:
    found = by_turns(sides, one_by_one(items), concurrency, seconds)
    ours, theirs = (found[name].requests_per_second for name in sides)
    what = f"{kind}, {concurrency} at once (infinity)"
    yield Row(what, ours, "a second", theirs, ours / theirs, AT_LEAST, ours >= AT_LEAST * theirs)
    for share in (50, 95, 99):
        yield Row(f"  p{share}", found["Triton"].percentile(share), "ms", found["infinity"].percentile(share))


def write_model(folder: Path) -> None:
    """Writes a CLIP of ViT-B/32's sizes as transformers saves it, with a tokenizer of bytes."""
    write_tiny("clip", folder)
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(folder)
    config = CLIPConfig(text_config={
        name: getattr(tokenizer, name) for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    })  # fmt: skip
    CLIPModel(config).save_pretrained(folder)
    file = folder / PROCESSOR
    settings = json.loads(file.read_text(encoding="utf-8"))
    images = settings["image_processor"]
    images |= {"size": {"shortest_edge": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    file.write_text(json.dumps(settings), encoding="utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps(images | OLDER_NAMES), encoding="utf-8")


def byte_tokenizer() -> CLIPTokenizer:
    """Returns CLIP's own tokenizer, which knows every byte and merges none; transformers 4 and 5 read it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


@contextmanager
def infinity(python: Path, model: Path) -> Iterator[int]:
    """Yields the port of an infinity-emb that serves the model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [
        *(str(python.with_name("infinity_emb")), "v2", "--model-id", str(model), "--served-model-name", SERVED),
        *("--engine", "torch", "--no-bettertransformer", "--device", "cpu", "--dtype", "float32"),
        *("--host", "127.0.0.1", "--port", str(port), "--no-model-warmup"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    environment.pop("PYTHONPATH", None)
    log = model.with_name("infinity.log")
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"infinity-emb did not start:\n{log.read_text()}")
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with suppress(OSError):
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    return False


def asking_infinity(port: int) -> Ask:
    """Returns what asks for vectors in base64, all items of a request being texts, or images; it raises `RuntimeError`
    where the answer is another than 200."""
    connections = local()

    def ask(items: Sequence[Item]) -> np.ndarray:
        if not hasattr(connections, "client"):
            connections.client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        images = items[0].image is not None
        given = [data_uri(item.image) if isinstance(item.image, bytes) else item.text for item in items]
        body = {"model": SERVED, "input": given, "encoding_format": "base64", "modality": "image" if images else "text"}
        connections.client.request("POST", "/embeddings", json.dumps(body), {"Content-Type": "application/json"})
        answer = connections.client.getresponse()
        content = answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"{answer.status}: {content[:300]!r}")
        vectors = [base64.b64decode(one["embedding"]) for one in json.loads(content)["data"]]
        found = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
        vectors_of_length_one: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
        return vectors_of_length_one

    return ask


def data_uri(image: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"


if __name__ == "__main__":
    typer.run(main)

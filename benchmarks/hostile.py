"""What a running gateway, and the Triton behind it, do with hostile input: each must be refused clearly, memory kept,
and healthy requests answered meanwhile. Call it where `embedline serve` runs.

The gateway is also asked by schemathesis: requests made up from the OpenAPI page, whose answers are compared with it.

    python benchmarks/hostile.py            10,000 fuzzed requests
    python benchmarks/hostile.py --quick    1,000
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import grpc
import httpx
import psutil
import typer
from tritonclient.grpc.service_pb2 import ModelInferRequest

from components.corpus import Item
from components.workspace import STATE
from serving import TritonEmbedder, TritonServer
from table import Row, show

AT_ONCE = 16
CONNECTIONS = 1_000
SLOW_SECONDS = 12
WARM = 500
MEMORY_GOAL_MB = 100
HEALTHY_SECONDS = 5
SCHEMA_SECONDS = 200
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
INFER = "/inference.GRPCInferenceService/ModelInfer"
QUESTION = Item(text="a sad cat")
Body = bytes


def main(
    home: Annotated[Path, typer.Option(help="The folder of the gateway's state.")] = STATE,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer requests.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    where = json.loads((home / "gateway.json").read_text(encoding="utf-8"))
    url, requests = f"http://{where['host']}:{where['port']}", 1_000 if quick else 10_000
    if (server := TritonServer.find(home)) is None:
        raise typer.BadParameter(f"no server runs in {home}: `embedline serve`")
    rows = [
        *asyncio.run(attack(url, where["pid"], requests)),
        *asyncio.run(attack_triton(server, requests // 5)),
        by_schema(url, SCHEMA_SECONDS // (5 if quick else 1)),
    ]
    show(
        "Hostile input", rows, machine, "unclear: a 5xx other than 503, or an answer that is no error of OpenAI's shape"
    )


async def attack(url: str, pid: int, requests: int) -> list[Row]:
    gateway = psutil.Process(pid)
    limits = httpx.Limits(max_connections=AT_ONCE + 4)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits, trust_env=False) as client:
        await fuzz(client, WARM, random.Random(1))  # what is allocated once is not growth
        before = memory(gateway)
        healthy = asyncio.create_task(ask_healthily(client))
        answers = await fuzz(client, requests, random.Random(0))
        opened = await open_and_dawdle(url)
        healthy.cancel()
        took, failed = await healthy
        left = await client.get("/healthz")
    grown = (memory(gateway) - before) / 2**20
    unclear = sum(count for (_, clear), count in answers.items() if not clear)
    by_status = Counter[int]()
    for (status, _), count in answers.items():
        by_status[status] += count
    return [
        Row("fuzzed requests", requests, "requests"),
        *(Row(f"  answered {status}", count, "requests") for status, count in sorted(by_status.items())),
        Row("  unclear answers", unclear, "requests", goal=0, met=unclear == 0),
        Row("connections that dawdle, hung up on", opened, "", goal=CONNECTIONS, met=opened == CONNECTIONS),
        Row("healthy requests meanwhile", len(took), "requests", goal=1, met=len(took) > 0),
        Row("  failed", failed, "requests", goal=0, met=failed == 0),
        Row(
            "  slowest", max(took, default=0.0), "s", goal=HEALTHY_SECONDS, met=max(took, default=99) < HEALTHY_SECONDS
        ),
        Row("memory grown", grown, "MB", goal=MEMORY_GOAL_MB, met=grown < MEMORY_GOAL_MB),
        Row(
            "alive afterwards", float(left.status_code == 200 and gateway.is_running()), "", goal=1, met=left.is_success
        ),
    ]


def memory(process: psutil.Process) -> int:
    return int(process.memory_info().rss)


def by_schema(url: str, seconds: int) -> Row:
    """Returns how many of the checks of schemathesis fail on what it makes up from the OpenAPI page."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", CHECKS, "--seed", "1"),
        *("--continue-on-failure", "--phases", "examples,coverage,fuzzing", "--max-time", str(seconds), "--no-color"),
    ]
    said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    if (found := re.search(r"([\d,]+) generated(?:, [\d,]+ found ([\d,]+) unique)?", said)) is None:
        raise SystemExit(f"schemathesis did not run:\n{said}")
    generated, failures = (int((group or "0").replace(",", "")) for group in found.groups())
    name = f"failures in {generated:,} requests by schemathesis"
    return Row(name, failures, "", goal=0, met=failures == 0)


async def attack_triton(server: TritonServer, requests: int) -> list[Row]:
    """Sends bytes that are no requests, and requests that are wrong, straight to Triton's gRPC port."""
    parent = psutil.Process(server.pid)
    processes = [parent, *parent.children(recursive=True)]
    generator, answers, healthy = random.Random(2), Counter[str](), TritonEmbedder(server.url)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        send = channel.unary_unary(INFER, request_serializer=bytes, response_deserializer=bytes)

        async def worker(count: int) -> None:
            for _ in range(count):
                try:
                    await send(wrong_request(generator), timeout=30)
                    answers["OK"] += 1
                except grpc.aio.AioRpcError as error:
                    answers[error.code().name] += 1

        async def ask(count: int) -> None:
            await asyncio.gather(*(worker(count // AT_ONCE) for _ in range(AT_ONCE)))

        await ask(WARM)
        answers.clear()
        known, before = healthy.encode([QUESTION]), sum(map(memory, processes))
        await ask(requests)
    grown = (sum(map(memory, processes)) - before) / 2**20
    same = float((healthy.encode([QUESTION]) == known).all())
    return [
        Row("wrong requests to Triton", sum(answers.values()), "requests"),
        *(Row(f"  answered {status}", count, "requests") for status, count in sorted(answers.items())),
        Row("  memory grown", grown, "MB", goal=MEMORY_GOAL_MB, met=grown < MEMORY_GOAL_MB),
        Row("  the right vector afterwards", same, "", goal=1, met=same == 1),
    ]


def wrong_request(generator: random.Random) -> Body:
    """Returns a request of the model's, with wrong shapes, types, contents, versions, or bytes changed."""
    if generator.random() < 0.2:
        return generator.randbytes(generator.randrange(2000))
    request = ModelInferRequest(model_name=generator.choice(["embedder"] * 9 + ["none"]))
    request.model_version = generator.choice([""] * 9 + ["0", "999", "-1", "x"])
    for name in generator.sample(["TEXT", "IMAGE", "INSTRUCTION", "DIMENSION", "UNKNOWN"], generator.randrange(4)):
        shape = generator.choice([[1, 1], [2, 1], [1], [], [0, 1], [-1, 1], [10**9, 1], [1, 1, 1], [2**62, 2**62]])
        kind = generator.choice(["BYTES", "BYTES", "INT32", "FP32", "none", ""])
        request.inputs.add(name=name, datatype=kind, shape=shape)
        text = generator.choice([b"", b"a cat", b"\xff\xfe", b"\0" * 100, b"x" * 100_000, generator.randbytes(50)])
        length = generator.choice([len(text), 0, 2**31, 5])
        request.raw_input_contents.append(struct.pack("<I", length) + text)
    body = bytearray(request.SerializeToString())
    for _ in range(generator.choice([0, 0, 3]) if body else 0):
        body[generator.randrange(len(body))] = generator.randrange(256)
    return bytes(body)


async def fuzz(client: httpx.AsyncClient, count: int, generator: random.Random) -> Counter[tuple[int, bool]]:
    """Sends bodies, `AT_ONCE` at a time; returns how often each status was answered, clearly or not."""
    answers = Counter[tuple[int, bool]]()
    bodies = hostile_bodies(generator)
    remaining = iter(range(count))

    async def worker() -> None:
        for _ in remaining:
            answer = await client.post(
                "/v1/embeddings", content=next(bodies), headers={"content-type": "application/json"}
            )
            answers[answer.status_code, is_clear(answer)] += 1

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return answers


def is_clear(answer: httpx.Response) -> bool:
    """Returns whether an answer is one of vectors, or an error that says what is wrong."""
    if answer.is_success:
        return bool(answer.json()["data"])
    error = answer.json().get("error", {})
    return bool(error.get("message")) and (answer.status_code < 500 or answer.status_code == 503)


async def ask_healthily(client: httpx.AsyncClient) -> tuple[list[float], int]:
    """Asks for a vector again and again until it is cancelled; returns the seconds of the answers, and the failures."""
    took, failed = [], 0
    while True:
        try:
            began = time.perf_counter()
            answer = await client.post("/v1/embeddings", json={"input": "a sad cat"})
            failed += not answer.is_success
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            return took, failed


async def open_and_dawdle(url: str) -> int:
    """Opens many connections that send half a request; returns how many the gateway has ended in time."""
    place = httpx.URL(url)

    async def dawdle() -> bool:
        reader, writer = await asyncio.open_connection(place.host, place.port)
        try:
            writer.write(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n")
            async with asyncio.timeout(SLOW_SECONDS + 20):
                while await reader.read(1024):
                    pass
            return True
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        finally:
            writer.close()

    return sum(await asyncio.gather(*(dawdle() for _ in range(CONNECTIONS))))


def hostile_bodies(generator: random.Random) -> Iterator[Body]:
    """Yields bodies of all kinds, for ever."""
    kinds: list[Callable[[random.Random], Body]] = [
        noise, broken_json, wrong_types, deep, images, images, images, texts, tokens, mutated, mutated,
    ]  # fmt: skip
    while True:
        yield generator.choice(kinds)(generator)


def noise(generator: random.Random) -> Body:
    return generator.randbytes(generator.randrange(2000))


def broken_json(generator: random.Random) -> Body:
    whole = json.dumps({"input": ["a cat"] * generator.randrange(1, 20), "model": "embedder"}).encode()
    return whole[: generator.randrange(len(whole))]


def anything(generator: random.Random, depth: int = 0) -> Any:
    kinds = ["null", "number", "text", "flag"] + (["list", "mapping"] * 2 if depth < 3 else [])
    match generator.choice(kinds):
        case "null":
            return None
        case "number":
            return generator.choice([0, -1, 1.5, 2**63, 10**40, 1e308])
        case "text":
            return generator.choice(["", "a cat", "\0", "\ud800", "\u202e", "é" * 100, "http://127.0.0.1/", "data:,"])
        case "flag":
            return generator.random() < 0.5
        case "list":
            return [anything(generator, depth + 1) for _ in range(generator.randrange(4))]
    names = ["type", "text", "image_url", "url", "input", "x"]
    return {generator.choice(names): anything(generator, depth + 1) for _ in range(generator.randrange(4))}


def wrong_types(generator: random.Random) -> Body:
    names = ["input", "model", "instruction", "dimensions", "encoding_format", "user", "on_error", "unknown"]
    body = {name: anything(generator) for name in names if generator.random() < 0.4}
    return json.dumps({"input": "a cat"} | body if generator.random() < 0.5 else body).encode("utf-8", "surrogatepass")


def deep(generator: random.Random) -> Body:
    opening = generator.choice([b"[", b'{"a":', b'{"input":['])
    return opening * generator.choice([100, 1000, 200_000])


def texts(generator: random.Random) -> Body:
    sizes = [(1, 10_000_000), (1, 200_000), (1000, 1), (256, 1000), (100_000, 1)]
    count, length = generator.choice(sizes if generator.random() < 0.1 else sizes[2:4])
    return json.dumps({"input": [generator.choice("ab ,[") * length] * count}).encode()


def tokens(generator: random.Random) -> Body:
    return json.dumps({"input": list(range(generator.choice([1, 100, 100_000])))}).encode()


def mutated(generator: random.Random) -> Body:
    """A good request with an image, with a few bytes changed."""
    body = bytearray(of_image(png(20, 20)))
    for _ in range(generator.randrange(1, 6)):
        body[generator.randrange(len(body))] = generator.randrange(256)
    return bytes(body)


def images(generator: random.Random) -> Body:
    whole = png(64, 64)
    found = [
        png(20_000, 20_000), png(1, 100_000), png(100_000, 1), png(0, 0), png(2**31 - 1, 1), whole[: len(whole) // 2],
        whole[:30], b"\xff\xd8\xff\xe0" + generator.randbytes(500), b"GIF89a" + generator.randbytes(100),
        b"RIFF\xff\xff\xff\xffWEBPVP8 " + generator.randbytes(100), b"<svg/>", b"\0" * 1000, generator.randbytes(300),
    ]  # fmt: skip
    return of_image(generator.choice(found), generator.choice(["fail", "item"]))


def of_image(data: bytes, on_error: str = "fail") -> Body:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(data).decode()}"}}
    return json.dumps({"input": [[part], "a cat"], "on_error": on_error}).encode()


def png(width: int, height: int) -> bytes:
    """Returns a PNG file that says so many pixels, and has at most 4 million of them."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = zlib.compress(b"\0" * min(((width + 7) // 8 + 1) * height, 500_000))
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


if __name__ == "__main__":
    typer.run(main)

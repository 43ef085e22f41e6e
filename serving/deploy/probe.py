"""Asks a Triton server for one vector and ends with 1 if it is none: whether it is ready, Triton does not know.

It runs inside the server's container, with nothing but Python: `python3 probe.py [HOST:PORT [MODEL]]`.
"""

import json
import math
import sys
import urllib.request

SECONDS = 5


def vector(address: str, model: str) -> list[float]:
    """Returns the vector of a text. Raises `OSError`, `ValueError` or `KeyError` if there is no answer, or another."""
    text = {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": ["probe"]}
    request = urllib.request.Request(
        f"http://{address}/v2/models/{model}/infer", json.dumps({"inputs": [text]}).encode()
    )
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 (the address is of the command line)
        numbers: list[float] = json.load(answer)["outputs"][0]["data"]
    return numbers


def main(address: str = "127.0.0.1:8000", model: str = "embedder") -> None:
    try:
        length = math.hypot(*vector(address, model))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        sys.exit(f"{model} at {address} does not answer: {error}")
    if not math.isclose(length, 1, rel_tol=1e-3):
        sys.exit(f"{model} at {address} answers a vector of length {length}")


if __name__ == "__main__":
    main(*sys.argv[1:])

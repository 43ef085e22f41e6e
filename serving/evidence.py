"""What a real server says of a bundle before anybody is served by it: the evidence for the infrastructure blessing."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from typing import Any

from components import errors
from components.errors import EmbedlineError
from components.export import read_bundle
from components.export.licences import UNKNOWN
from components.files import folder_bytes
from serving.environment import add_openvino, needs_openvino, prepare
from serving.sandbox import NAMESPACE, available_proof
from serving.trial import CHAMPION, Trial, command

CONCURRENCY = 4


def measure(
    home: Path,
    bundle: Path,
    champion: Path | None = None,
    startup_seconds: float = 60,
    concurrency: int = CONCURRENCY,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Returns what was measured of the bundle on a server of its own without a network, the only one that runs in
    `home`; the bundle of the `champion`, if there is one, is asked beside it by turns.

    Each example of the bundle is asked alone. `answered_fraction` of them got a finite vector of the right length;
    `server_cosine` is the least cosine of those to the bundle's expected vectors, -1 if there are none. `latency_ms` is
    the median of single text requests, `load_seconds` how long it took to be ready, `memory_bytes` the resident memory
    of the server with this model, `size_bytes` the size of the version's files. `network_tries` counts what tried to
    reach a network until then, found by `network_proof`.

    Then the examples are asked again and again, `concurrency` at a time: `loaded_latency_ms` and `requests_per_second`.
    Each of these has its `champion_` beside it. `slowdown_latency` and `slowdown_throughput` are how many times as slow
    as the champion the bundle is, with their bounds `_lower` and `_upper` of this confidence each. `licences` are the
    files of the bundle by their licence.

    Raises `EmbedlineError` if the server does not start, does not load a bundle, or answers no text, and `Refused` if
    the bundle does not load because it cannot reach a network.
    """
    log, proof = logging.getLogger(__name__), available_proof()
    environment = prepare(home / "model_repository")  # both may need the network
    if any(needs_openvino(each) for each in filter(None, (bundle, champion))):
        add_openvino(environment)
    if proof == "blocked sockets":
        log.warning(
            "this machine allows no network namespace: that the model needs no network is proved by blocking the "
            "sockets of its Python alone, which native code could go round"
        )
    trial = Trial(
        str(home), str(bundle), str(champion) if champion else None, startup_seconds, concurrency, confidence, proof
    )
    found = run(trial)
    for reason in found.pop("unanswered"):
        log.warning("an example was not answered: %s", reason)
    sizes = {"size_bytes": folder_bytes(bundle / "version")}
    if champion:
        sizes[f"{CHAMPION}_size_bytes"] = folder_bytes(champion / "version")
    return {**found, **sizes, "network_proof": proof, "licences": licences(bundle)}


def licences(bundle: Path) -> dict[str, list[str]]:
    """Returns the files of a bundle by their licences, SPDX expressions; those that it says nothing of are UNKNOWN."""
    known, found = read_bundle(bundle).licences, dict[str, list[str]]()
    for file in sorted(file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()):
        found.setdefault(known.get(file, UNKNOWN), []).append(file)
    return found


def run(trial: Trial) -> dict[str, Any]:
    """Runs a trial in a process of its own, which has no network if the proof is a namespace."""
    inside = NAMESPACE if trial.proof == "network namespace" else ()
    done = subprocess.run([*inside, *command(trial)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise EmbedlineError(f"the trial of the bundle ended with {done.returncode}", f"See {trial.home}/triton.log.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if kind := found.get("error"):
        raise getattr(errors, kind, EmbedlineError)(found["problem"], found["remedy"])
    return found

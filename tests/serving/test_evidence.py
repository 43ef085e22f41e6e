"""The evidence is what a real server says: a bundle that answers wrongly, or not at all, shows in its numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from components.errors import EmbedlineError, Refused
from components.export.licences import UNKNOWN
from components.registry import infrastructure
from components.registry.config import Promotion
from serving import TritonServer, evidence
from serving.evidence import measure
from serving.sandbox import Proof, available_proof
from tests.registry.conftest import promotion_config

pytestmark = pytest.mark.slow  # a server of its own for each trial

__all__ = ["promotion_config"]


def test_a_sound_bundle_answers_everything_as_expected(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    found = measure(tmp_path / "trial", bundles[0])
    assert found["load_seconds"] > 0 and found["memory_bytes"] > 10**7
    assert found["requests_per_second"] > 0 and found["loaded_latency_ms"] > 0
    assert not any(name.startswith(("champion", "slowdown")) for name in found)
    assert found["network_tries"] == 0 and found["network_proof"] == available_proof()
    assert found["licences"] == {UNKNOWN: sorted(files_in(bundles[0]))}, "this bundle says nothing of licences"
    assert found["server_cosine"] == pytest.approx(1, abs=1e-5)
    assert found["answered_fraction"] == 1
    assert 0 < found["latency_ms"] < 1000
    assert found["size_bytes"] == sum(file.stat().st_size for file in (bundles[0] / "version").iterdir())
    assert TritonServer.find(tmp_path / "trial") is None
    assert measure(tmp_path / "trial", bundles[1])["answered_fraction"] == 1, "another bundle has the number 1 now"


def test_wrong_vectors_and_missing_answers_are_measured(copied_bundle: Path, tmp_path: Path) -> None:
    expected = np.load(copied_bundle / "examples.npy")
    right = np.float32(0.5)
    turned = right * expected[0] + math.sqrt(1 - right**2) * orthogonal_to(expected[0])
    np.save(copied_bundle / "examples.npy", np.stack([turned, expected[1], expected[0]]))
    (copied_bundle / "broken.png").write_bytes(b"broken")
    description = json.loads((copied_bundle / "bundle.json").read_text())
    description["examples"].append({"text": None, "image": "broken.png", "instruction": None})
    (copied_bundle / "bundle.json").write_text(json.dumps(description))
    found = measure(tmp_path / "trial", copied_bundle)
    assert found["answered_fraction"] == pytest.approx(2 / 3)
    assert found["server_cosine"] == pytest.approx(0.5, abs=1e-4)


def test_vectors_of_another_length_are_no_answers(copied_bundle: Path, tmp_path: Path) -> None:
    np.save(copied_bundle / "examples.npy", np.load(copied_bundle / "examples.npy")[:, :16])
    found = measure(tmp_path / "trial", copied_bundle)
    assert (found["answered_fraction"], found["server_cosine"]) == (0, -1)


def test_a_bundle_that_does_not_load_is_an_error_and_no_server_stays(copied_bundle: Path, tmp_path: Path) -> None:
    (copied_bundle / "version" / "model.py").write_text("raise RuntimeError('no such tower')\n")
    with pytest.raises(EmbedlineError, match="no such tower"):
        measure(tmp_path / "trial", copied_bundle)
    assert TritonServer.find(tmp_path / "trial") is None


def test_a_slow_challenger_is_found_beside_the_champion(
    bundles: tuple[Path, Path], copied_bundle: Path, tmp_path: Path, promotion_config: Promotion
) -> None:
    slow = 1.0 / 50
    add_code(copied_bundle, f"import time\nencode = Runtime.encode\ndef late(self, *parts):\n    time.sleep({slow})\n"
             "    return encode(self, *parts)\nRuntime.encode = late\n")  # fmt: skip
    beside = measure(tmp_path / "trial", copied_bundle, bundles[1])
    assert beside["slowdown_latency_lower"] > 2 and beside["slowdown_throughput_lower"] > 2
    assert beside["loaded_latency_ms"] > 1000 * slow > beside["champion_loaded_latency_ms"]
    checks = {"parity_cosine": 1.0, "rank_agreement": 1.0}
    verdict = infrastructure("new", beside | checks, promotion_config, "old")
    assert [reason.split(":")[0] for reason in verdict.reasons] == ["slowdown_latency", "slowdown_throughput"]
    assert beside["champion_size_bytes"] > 0
    assert beside["champion_memory_bytes"] > 10**7 and beside["champion_load_seconds"] > 0


LOOKS_AROUND = "import socket\ntry:\n    socket.create_connection(({address!r}, 443), 1)\nexcept OSError:\n    pass\n"


@pytest.mark.parametrize(
    ("proof", "address"),
    [
        ("network namespace", "192.0.2.1"),
        ("network namespace", "127.0.0.1"),
        ("network namespace", "mothership.example"),
        ("blocked sockets", "mothership.example"),
        ("blocked sockets", "192.0.2.1"),
    ],
)
def test_a_bundle_that_opens_a_socket_is_refused_though_it_would_do_without(
    copied_bundle: Path,
    tmp_path: Path,
    address: str,
    proof: Proof,
    promotion_config: Promotion,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(evidence, "available_proof", lambda: allowed(proof))
    add_code(copied_bundle, LOOKS_AROUND.format(address=address))
    found = measure(tmp_path / "trial", copied_bundle)
    assert found["network_tries"] > 0 and found["network_proof"] == proof
    assert ("blocking the sockets" in caplog.text) == (proof == "blocked sockets")
    verdict = infrastructure("new", found | {"parity_cosine": 1.0, "rank_agreement": 1.0}, promotion_config)
    (reason,) = verdict.reasons
    assert reason.startswith("network_tries: the model tried to reach a network ") and proof in reason


@pytest.mark.parametrize("proof", ["network namespace", "blocked sockets"])
def test_a_bundle_that_needs_a_network_to_load_is_refused(
    copied_bundle: Path, tmp_path: Path, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "available_proof", lambda: allowed(proof))
    add_code(copied_bundle, "import socket\nsocket.create_connection(('192.0.2.1', 443), 1)\n")
    with pytest.raises(Refused, match=f"does not load without a network, .* \\({proof}\\)"):
        measure(tmp_path / "trial", copied_bundle)


def test_a_sound_bundle_passes_behind_blocked_sockets_too(
    bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "available_proof", lambda: "blocked sockets")
    found = measure(tmp_path / "trial", bundles[0], bundles[1])
    assert found["network_tries"] == 0 and found["server_cosine"] == pytest.approx(1, abs=1e-5)


def test_a_champion_that_does_not_load_is_named(
    bundles: tuple[Path, Path], copied_bundle: Path, tmp_path: Path
) -> None:
    (copied_bundle / "version" / "model.py").write_text("raise RuntimeError('no such tower')\n")
    with pytest.raises(EmbedlineError, match=r"the champion does not load beside it: .*no such tower"):
        measure(tmp_path / "trial", bundles[0], copied_bundle)


def test_a_challenger_of_another_dimension_is_measured_beside_the_champion(
    bundles: tuple[Path, Path], small_bundle: Path, tmp_path: Path, promotion_config: Promotion
) -> None:
    found = measure(tmp_path / "trial", small_bundle, bundles[0], concurrency=2)
    assert found["answered_fraction"] == 1
    checks = {"parity_cosine": 1.0, "rank_agreement": 1.0}
    verdict = infrastructure("new", found | checks, promotion_config.model_copy(update={"max_slowdown": 5.0}), "old")
    assert verdict.passed, "a small model of another dimension is not blamed beside the champion"


def allowed(proof: Proof) -> Proof:
    if proof == "network namespace" and available_proof() != proof:
        pytest.skip("this machine allows no network namespace")
    return proof


def add_code(bundle: Path, code: str) -> None:
    with (bundle / "version" / "runtime.py").open("a", encoding="utf-8") as file:
        file.write(code)


def files_in(bundle: Path) -> list[str]:
    return [file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()]


def orthogonal_to(vector: np.ndarray) -> np.ndarray:
    other = np.roll(vector, 1)
    other -= (other @ vector) * vector
    unit: np.ndarray = other / np.linalg.norm(other)
    return unit

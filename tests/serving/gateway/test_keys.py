"""API keys and rates: who is let in, and how often."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import EmbedlineError, UsageError
from serving.gateway import keys
from serving.gateway.keys import Keys
from serving.gateway.limits import HeldBytes, Rates
from serving.gateway.refusal import Refusal
from serving.gateway.server import require_keys
from tests.serving.gateway.conftest import ROOT


def refused(home: Path, header: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        Keys(home).authorise(header)
    assert caught.value.status == 401 and caught.value.headers["www-authenticate"] == "Bearer"
    return caught.value


def test_a_key_lets_in_and_a_revoked_one_does_not(tmp_path: Path) -> None:
    assert Keys(tmp_path).authorise("") is None, "before there is a key everybody is let in"
    first, second = keys.create(tmp_path, "first", rate=5), keys.create(tmp_path, "second")
    found = Keys(tmp_path).authorise(f"Bearer {first}")
    assert found is not None and (found.name, found.rate) == ("first", 5)
    for header in ("", "Bearer", "Bearer wrong", first, f"Basic {first}", f"Bearer {first[:-1]}"):
        refused(tmp_path, header)
    keys.revoke(tmp_path, "first")
    assert refused(tmp_path, f"Bearer {first}").code == "invalid_api_key"
    assert Keys(tmp_path).authorise(f"Bearer {second}") is not None
    keys.revoke(tmp_path, "second")
    refused(tmp_path, "")  # where keys were made, none is let in without


def test_only_hashes_are_kept(tmp_path: Path) -> None:
    secret = keys.create(tmp_path, "first")
    file = tmp_path / "keys.json"
    assert secret not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(secret) > 40 and secret != keys.create(tmp_path, "second")


def test_a_running_gateway_follows_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "REREAD_SECONDS", 0)
    running = Keys(tmp_path)
    assert running.authorise("") is None
    secret = keys.create(tmp_path, "first")
    assert running.authorise(f"Bearer {secret}") is not None
    keys.revoke(tmp_path, "first")
    with pytest.raises(Refusal):
        running.authorise(f"Bearer {secret}")


def test_wrong_names_and_damaged_files_are_explained(tmp_path: Path) -> None:
    keys.create(tmp_path, "first")
    with pytest.raises(UsageError, match="already"):
        keys.create(tmp_path, "first")
    with pytest.raises(UsageError, match="no key 'second'"):
        keys.revoke(tmp_path, "second")
    with pytest.raises(UsageError, match="no name"):
        keys.create(tmp_path, " ")
    (tmp_path / "keys.json").write_text("[{")
    with pytest.raises(EmbedlineError, match="holds no keys"):
        Keys(tmp_path).authorise("")


def test_the_command_creates_lists_and_revokes(tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from cli.main import main; main()", "keys", *arguments]
        return subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)

    secret = call("create", "page", "--rate", "3").stdout.strip()
    assert Keys(tmp_path / ".embedline").authorise(f"Bearer {secret}")
    (listed,) = json.loads(call("list", "--json").stdout)
    assert listed["name"] == "page" and listed["rate"] == 3 and listed["revoked"] is None
    assert call("revoke", "page").returncode == 0
    refused(tmp_path / ".embedline", f"Bearer {secret}")
    assert call("revoke").returncode == 2


def test_strangers_are_answered_only_with_keys(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        require_keys(tmp_path, host)
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.com"):
        with pytest.raises(UsageError, match="everybody"):
            require_keys(tmp_path, host)
    keys.create(tmp_path, "first")
    require_keys(tmp_path, "0.0.0.0")


def test_a_rate_is_kept() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    for _ in range(10):
        rates.spend("a", 10, 1)
    with pytest.raises(Refusal) as caught:
        rates.spend("a", 10, 1)
    assert caught.value.status == 429 and caught.value.headers["retry-after"] == "1"
    rates.spend("b", 10, 1)  # every key has its own
    now = 0.5
    for _ in range(5):
        rates.spend("a", 10, 1)
    now = 100.0
    rates.spend("a", 10, 60)  # a large request passes once, and is paid afterwards
    with pytest.raises(Refusal) as caught:
        rates.spend("a", 10, 1)
    assert caught.value.headers["retry-after"] == "5"
    now = 104.9
    with pytest.raises(Refusal):
        rates.spend("a", 10, 1)
    now = 105.2
    rates.spend("a", 10, 1)


def test_bytes_in_memory_are_bounded() -> None:
    held = HeldBytes(100)
    held.take(60)
    with pytest.raises(Refusal) as caught:
        held.take(60)
    assert caught.value.status == 503 and caught.value.retry_after
    held.give_back(60)
    held.take(100)

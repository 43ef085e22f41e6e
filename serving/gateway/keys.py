"""API keys: made, listed and revoked in `.embedline/keys.json`, which holds their hashes only.

A key is 256 random bits, which no dictionary finds, so one round of SHA-256 hides it as well as a slow hash would.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock

from components.errors import EmbedlineError, UsageError
from components.files import atomic_file
from serving.gateway.refusal import Refusal

FILE = "keys.json"
PREFIX = "el-"
REREAD_SECONDS = 0.2


@dataclass(frozen=True)
class Key:
    """`rate` is how many items a second its requests may have; None is as many as there are."""

    name: str
    digest: str
    created: str
    rate: float | None = None
    revoked: str | None = None


def create(home: Path, name: str, rate: float | None = None) -> str:
    """Returns a new key, which is shown this once. Raises `UsageError` if the name is taken."""
    if not name.isprintable() or not name.strip():
        raise UsageError(f"{name!r} is no name for a key", "Name it after who uses it.")
    secret = PREFIX + secrets.token_urlsafe(32)
    with changing(home):
        keys = read(home)
        if any(key.name == name for key in keys):
            raise UsageError(f"there is a key {name!r} already", "Take another name; a revoked key keeps its own.")
        write(home, [*keys, Key(name, digest(secret), now(), rate)])
    return secret


def revoke(home: Path, name: str) -> None:
    """Makes a key invalid, within `REREAD_SECONDS` in a running gateway. Raises `UsageError` if there is none."""
    with changing(home):
        keys = read(home)
        if all(key.name != name for key in keys):
            raise UsageError(f"there is no key {name!r}", "See `embedline keys list`.")
        write(home, [replace(key, revoked=key.revoked or now()) if key.name == name else key for key in keys])


def read(home: Path) -> list[Key]:
    """Returns all keys, revoked ones too. Raises `EmbedlineError` if the file is damaged."""
    try:
        return [Key(**entry) for entry in json.loads((home / FILE).read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise EmbedlineError(
            f"{home / FILE} holds no keys: {error}", "Restore it, or remove it and make new keys."
        ) from error


def write(home: Path, keys: Sequence[Key]) -> None:
    with atomic_file(home / FILE) as partial:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps([asdict(key) for key in keys], indent=2) + "\n", encoding="utf-8")


def changing(home: Path) -> FileLock:
    home.mkdir(parents=True, exist_ok=True)
    return FileLock(home / f"{FILE}.lock", timeout=10)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def now() -> str:
    return datetime.now(UTC).isoformat("T", "seconds")


class Keys:
    """The keys of a running gateway, read again when their file changes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.seen: tuple[int, int] | None = None
        self.looked = float("-inf")
        self.keys: Sequence[Key] = []

    def authorise(self, header: str) -> Key | None:
        """Returns the key in an `Authorization` header; None where no key was ever made, and everybody is let in.

        Raises `Refusal` 401. Every key is compared in constant time.
        """
        keys = self.current()
        if not keys:
            return None
        scheme, _, secret = header.partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise Refusal(401, "send a key: Authorization: Bearer KEY", code="missing_api_key")
        found = digest(secret.strip())
        matches = [key for key in keys if hmac.compare_digest(key.digest, found)]
        if not matches or matches[0].revoked:
            raise Refusal(401, "the key is not valid here", code="invalid_api_key")
        return matches[0]

    def current(self) -> Sequence[Key]:
        moment = time.monotonic()
        if moment - self.looked >= REREAD_SECONDS:
            try:
                state = os.stat(self.home / FILE)  # noqa: PTH116 (asked for at every request)
                seen = (state.st_mtime_ns, state.st_ino)
            except FileNotFoundError:
                seen = None
            if seen != self.seen:
                self.keys = read(self.home)
            self.seen, self.looked = seen, moment
        return self.keys

"""The model repository on disk: numbered versions of a model, and which of them are to be served.

<repository>/embedder/config.pbtxt      names the versions that are served
<repository>/embedder/<version>/        the `version` folder of one bundle; a number never changes its content
<repository>/challenger/                the same for versions that are on trial
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from components.errors import EmbedlineError, UsageError
from components.files import file_sha256, write_text
from serving import known_answers

MODEL = "embedder"
CONFIG = "config.pbtxt"
NAME = re.compile(r"^name:.*$\n?", re.MULTILINE)
POLICY = re.compile(r"^version_policy.*versions: \[([\d, ]*)\].*\n", re.MULTILINE)


def versions(repository: Path, model: str = MODEL) -> list[int]:
    """Returns the numbers of all versions in the repository, served or not, in ascending order."""
    folder = repository / model
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()) if folder.exists() else []


def served(repository: Path, model: str = MODEL) -> list[int]:
    """Returns the numbers of the versions that the configuration names as served, in ascending order."""
    policy = POLICY.search(read_config(repository, model) or "")
    return sorted(int(number) for number in policy[1].split(",")) if policy else []


def add_version(repository: Path, bundle: Path, version: int, model: str = MODEL) -> bool:
    """Copies the bundle's version folder to its number, whole or not at all; returns whether it was new.

    Raises `EmbedlineError` if the number is taken by another content, and `UsageError` if `bundle` is no bundle.
    """
    source, target = bundle / "version", repository / model / str(version)
    if version < 1:
        raise UsageError(f"{version} is no version number", "versions count from 1")
    for part in ("version/model.py", "bundle.json", CONFIG):
        if not (bundle / part).is_file():
            raise UsageError(f"{bundle} is no bundle: it has no {part}", "make one: `embedline stage package`")
    if target.exists():
        if content_digest(target) != content_digest(source):
            raise EmbedlineError(
                f"version {version} is in {target.parent} already, with another content than {source}",
                "a number never changes what it means: register the model again and deploy the new number",
            )
        return False
    partial = target.with_name(f".{version}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns("__pycache__"))
    except (OSError, shutil.Error) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise EmbedlineError(
            f"version {version} cannot be copied to {target.parent}: {error}", "free some disk, or package it again"
        ) from error
    partial.rename(target)
    return True


def unneeded(repository: Path, kept: Collection[int]) -> list[int]:
    """Returns the versions of the champion's model that are in the repository, neither served nor kept."""
    return [version for version in versions(repository) if version not in {*served(repository), *kept}]


def remove_version(repository: Path, version: int, model: str = MODEL) -> None:
    """Removes a version that is not served; nothing happens if it is not there. Raises `EmbedlineError` if it is."""
    if version in served(repository, model):
        raise EmbedlineError(f"version {version} is being served", "serve other versions first, then remove it")
    target = repository / model / str(version)
    if target.exists():
        doomed = target.rename(target.with_name(f".{version}.partial"))
        shutil.rmtree(doomed)
    if model == MODEL:
        shutil.rmtree(known_answers.folder(repository, version), ignore_errors=True)


def read_config(repository: Path, model: str = MODEL) -> str | None:
    """Returns the text of the model's configuration, or None if nothing is configured."""
    config = repository / model / CONFIG
    return config.read_text(encoding="utf-8") if config.exists() else None


def write_config(repository: Path, config: str, serve: Sequence[int], model: str = MODEL) -> None:
    """Writes the text `config` as the model's configuration, with its name and the versions to serve put in. Raises
    `UsageError` if one of them is not in the repository or none is given."""
    there = versions(repository, model)
    if not serve or not set(serve) <= set(there):
        raise UsageError(
            f"versions to serve: {list(serve)}; versions in {repository / model}: {there}",
            "name at least one, and only versions that were added",
        )
    restore_config(repository, config_for(config, serve, model), model)


def config_for(config: str, serve: Sequence[int], model: str = MODEL) -> str:
    """Returns the text of a bundle's configuration as that of the model which serves these versions of it."""
    numbers = ", ".join(map(str, sorted(set(serve))))
    base = POLICY.sub("", NAME.sub("", config)).rstrip("\n")
    return f'name: "{model}"\n{base}\nversion_policy: {{ specific: {{ versions: [{numbers}] }} }}\n'


def restore_config(repository: Path, config: str | None, model: str = MODEL) -> None:
    """Writes back what `read_config` returned."""
    target = repository / model / CONFIG
    if config is None:
        target.unlink(missing_ok=True)
        return
    write_text(target, config)


def content_digest(folder: Path) -> str:
    """Returns the SHA-256 over the names and bytes of all files in the folder, apart from Python's own caches."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        total.update(f"{path.relative_to(folder)} {file_sha256(path)}\n".encode())
    return total.hexdigest()

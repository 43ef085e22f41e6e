"""Ready configurations: a profile changes some keys of `params.yaml` and leaves the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.config import PARAMETERS, parse, read
from components.errors import UsedWrongly

PROFILES = Path("profiles")


@dataclass(frozen=True)
class Profile:
    """A recipe of the literature: where it is from, where ours differs, and the keys of `params.yaml` that it sets."""

    name: str
    paper: str
    differs: str
    changes: Mapping[str, Any]


def profile_names(folder: Path = PROFILES) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def read_profile(name: str, folder: Path = PROFILES) -> Profile:
    """Returns a profile. Raises `UsedWrongly` that names the known ones if there is no such, or if it is not one."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(profile_names(folder)) or "none"
        raise UsedWrongly(f"{file}: there is no such profile", f"The profiles are: {known}.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Profile(name, content.pop("paper"), content.pop("differs"), content)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise UsedWrongly(
            f"{file}: is no profile: {error}", "It needs `paper`, `differs` and keys of params.yaml."
        ) from error


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with the changes: mappings are joined key by key, all else is replaced.

    So is a mapping whose `kind` changes: what one kind of tower is made of means nothing to another.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("kind") in (None, old.get("kind")):
            value = overlay(old, value)
        merged[key] = value
    return merged


def apply_profile(name: str, parameters: Path = Path(PARAMETERS), folder: Path = PROFILES) -> Profile:
    """Rewrites the file of parameters with the profile's changes, if that makes a configuration; returns the profile.

    Raises `UsedWrongly` as `read_profile`, `read` and `parse` do, and leaves the file then as it was.
    """
    profile = read_profile(name, folder)
    read(parameters)
    content = overlay(yaml.safe_load(parameters.read_text(encoding="utf-8")), profile.changes)
    parse(content, f"{parameters.name} with {name}")
    partial = parameters.with_name(f".{parameters.name}.partial")
    header = (
        f"# {parameters.name} as it was, with the profile {name}. components/config.py says what each key may be.\n"
    )
    written = yaml.dump(content, Dumper=_WithoutAnchors, sort_keys=False, allow_unicode=True)
    partial.write_text(header + written, encoding="utf-8")
    partial.replace(parameters)
    return profile


class _WithoutAnchors(yaml.SafeDumper):
    """Writes what two sections share in both of them, so that each can be changed alone."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

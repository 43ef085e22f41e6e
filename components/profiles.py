"""Ready configurations: a profile changes some keys of `params.yaml` and leaves the others."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from components.config import PARAMETERS, parse, read
from components.errors import UsageError
from components.files import atomic_file
from components.source import ROOT
from components.workspace import STATE

PROFILES = ROOT / "profiles"
DEFAULT = "default"
"""The name that goes back to the recipes from before any profile."""
RECIPES = ("negatives", "teacher", "teacher_embeddings", "distillation")
"""The sections that a profile may change, and which every profile starts from anew."""
MARK = "# profile: "
BEFORE = STATE / "params.before-profile.yaml"
"""The parameters without a profile, while one is applied."""
ALTERNATIVES = {"steps": "epochs", "epochs": "steps"}
"""Keys of a schedule that say the same in other words: where a profile sets one, the other becomes null."""


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
    """Returns a profile. Raises `UsageError` that names the known ones if there is no such, or if it is not one."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(profile_names(folder)) or "none"
        raise UsageError(f"{file}: there is no such profile", f"The profiles are: {known}.")
    try:
        content = _yaml().load(file.read_text(encoding="utf-8"))
        return Profile(name, content.pop("paper"), content.pop("differs"), content)
    except (YAMLError, UnicodeDecodeError, AttributeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{file}: is no profile: {error}", "It needs `paper`, `differs` and keys of params.yaml."
        ) from error


def overlay(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `base` with the changes: mappings are joined key by key, all else is replaced.

    So is a mapping whose `kind` changes: what one kind of tower is made of means nothing to another.
    """
    merged = dict(base)
    for key, value in _without_alternatives(base, changes).items():
        old: Any = merged.get(key)
        merged[key] = overlay(old, value) if _joins(old, value) else value
    return merged


def apply_profile(name: str, parameters: Path = Path(PARAMETERS), folder: Path = PROFILES) -> Profile:
    """Rewrites the recipes in the file of parameters, if that makes a configuration; returns the profile.

    It starts from the recipes without a profile, which `BEFORE` keeps. Comments, order and anchors stay where the
    profile changes nothing. Raises `UsageError` as `read_profile`, `read` and `parse` do, if the profile changes more
    than recipes, and if the recipes without a profile are lost; the file is then left as it was.
    """
    profile = read_profile(name, folder)
    read(parameters)
    before = _without_profile(parameters)
    changed = _changed(before, profile.changes)
    parse(yaml.safe_load(changed), f"{parameters.name} with {name}")
    if others := sorted(set(profile.changes) - set(RECIPES)):
        raise UsageError(f"{name}: a profile cannot change {others[0]}", f"It can change {', '.join(RECIPES)}.")
    text = _with_recipes(before, changed)
    kept = parameters.parent / BEFORE
    kept.parent.mkdir(exist_ok=True)
    _write(kept, before)
    _write(parameters, f"{MARK}{name}\n{text}")
    return profile


def restore_default(parameters: Path = Path(PARAMETERS)) -> None:
    """Gives the file of parameters its recipes from before any profile again; other sections stay as they are.

    Raises `UsageError` as `read` does, and if those recipes are lost.
    """
    read(parameters)
    _write(parameters, _without_profile(parameters))
    (parameters.parent / BEFORE).unlink(missing_ok=True)


def _without_profile(parameters: Path) -> str:
    text = _read(parameters)
    if not text.startswith(MARK):
        return text
    mark, _, text = text.partition("\n")
    kept = parameters.parent / BEFORE
    if not kept.is_file():
        raise UsageError(
            f"{parameters} has the profile {mark.removeprefix(MARK).strip()}, and {kept}, from before it, is missing",
            f"Go back to a committed one without a profile: `git checkout {parameters.name}`.",
        )
    return _with_recipes(text, _read(kept))


def _with_recipes(text: str, recipes: str) -> str:
    """Returns the text with the recipes' sections of another, to the byte."""
    sections, others = _sections(text), _sections(recipes)
    return "".join({**sections, **{name: others[name] for name in RECIPES}}.values())


def _sections(text: str) -> dict[str, str]:
    """Returns the text of each section by its name; what precedes the first has none."""
    parts = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)
    sections = {part.partition(":")[0] if number else "": part for number, part in enumerate(parts)}
    if missing := [name for name in RECIPES if name not in sections]:
        raise UsageError(
            f"{PARAMETERS}: no line starts with {missing[0]}:", "Write each section's name at the start of a line."
        )
    return sections


def _changed(text: str, changes: Mapping[str, Any]) -> str:
    document, changed = _yaml().load(text), io.StringIO()
    _change(document, changes)
    _yaml().dump(document, changed)
    return changed.getvalue()


def _change(section: CommentedMap, changes: Mapping[str, Any]) -> None:
    """Does in place what `overlay` does; what other places share by an anchor or a merge stays as it is for them."""
    for key, value in _without_alternatives(section, changes).items():
        own = dict(section.non_merged_items())
        old = section.get(key)
        if not _joins(old, value):
            new = value
        elif key in own and not old.anchor.value:
            new = old
            _change(new, value)
        else:
            new = _unshared(copy.deepcopy(old))
            _change(new, value)
        if key in own:
            section[key] = new
        else:  # not at the end: what follows the last key are the lines before the next section
            section.insert(max(len(own) - 1, 0), key, new)


def _without_alternatives(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the changes, and null for what they replace: a key that a merge brings in cannot be left out."""
    replaced = [ALTERNATIVES[key] for key in changes if key in ALTERNATIVES]
    return {other: None for other in replaced if other in section and other not in changes} | dict(changes)


def _joins(old: Any, value: Any) -> bool:
    mappings = isinstance(old, Mapping) and isinstance(value, Mapping)
    return mappings and value.get("kind") in (None, old.get("kind"))


def _unshared(node: Any) -> Any:
    """Returns the node without its anchors: they name what it is a copy of."""
    if hasattr(node, "yaml_set_anchor"):
        node.yaml_set_anchor(None)
    for child in node.values() if isinstance(node, Mapping) else node if isinstance(node, list) else ():
        _unshared(child)
    return node


def _yaml() -> YAML:
    """Reads and writes what is between the values too, in the style of `params.yaml`."""
    style = YAML()
    style.indent(mapping=2, sequence=4, offset=2)
    style.preserve_quotes = True
    style.width = 4096
    style.Representer = _WithNull
    return style


class _WithNull(RoundTripRepresenter):
    """Writes null, where ruamel.yaml would write nothing."""


_WithNull.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))


def _read(file: Path) -> str:
    return file.read_bytes().decode()


def _write(file: Path, text: str) -> None:
    with atomic_file(file) as partial:
        partial.write_bytes(text.encode())

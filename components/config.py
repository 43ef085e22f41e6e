"""`params.yaml`, assembled from each component's own section; an unknown key or an impossible value is explained."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError, create_model, model_validator

from components.corpus.config import Corpus
from components.errors import UsageError
from components.evaluation.config import Evaluation
from components.export.config import AUTO, Export, Serving
from components.found_by_name import FoundByName
from components.gateway import Gateway
from components.monitoring.config import Monitoring
from components.registry.config import Promotion, Registry
from components.sections import Model, Section, demand
from components.storage import Storage
from components.training.config import Negatives, Recipe, TeacherEmbeddings, Towers
from components.validation.config import Validation

PARAMETERS, SCHEMA = "params.yaml", "params.schema.json"


class Config(Section):
    corpus: Corpus
    validation: Validation
    negatives: Negatives
    teacher: Recipe
    teacher_embeddings: TeacherEmbeddings
    distillation: Recipe
    export: Export
    evaluation: Evaluation
    serving: Serving
    gateway: Gateway = Gateway()
    promotion: Promotion
    monitoring: Monitoring = Monitoring()
    registry: Registry = Registry()
    storage: Storage = Storage()

    @model_validator(mode="after")
    def _student_sees_what_teachers_saw(self) -> Self:
        fits = isinstance(self.distillation.backbone, Towers) or not self.teacher_embeddings.views
        return demand(self, fits, "teacher_embeddings.views: a whole student sees images as they are: must be 0")

    @model_validator(mode="after")
    def _served_is_exported(self) -> Self:
        served, exported = self.serving.variant, self.export.names
        if served == AUTO:
            otherwise = "serving.variant: auto needs export.max_score_loss, how much of the dev score it may cost"
            return demand(self, self.export.max_score_loss is not None, otherwise)
        otherwise = f"serving.variant: {served!r} is not exported; export.variants has {', '.join(exported)}"
        return demand(self, served in exported, otherwise)

    @model_validator(mode="after")
    def _negatives_are_mined(self) -> Self:
        asked = max(self.teacher.negatives_per_query, self.distillation.negatives_per_query)
        there = self.negatives.per_query if self.negatives.model else 0
        return demand(self, asked <= there, f"negatives_per_query asks for {asked}, and negatives mines {there}")


def read(path: Path) -> Config:
    """Returns the configuration. Raises `UsageError` that names each wrong key, what was found, and a remedy."""
    return parse(_load(path), path.name)


def read_section(path: Path, kind: type[Model]) -> Model:
    """Returns one section, such as `Serving`, and looks at no other; raises as `read` does."""
    ((name, field),) = ((name, field) for name, field in Config.model_fields.items() if field.annotation is kind)
    alone = create_model("Alone", **{name: (kind, field)})  # type: ignore[call-overload]
    section: Model = getattr(_validated(alone, _load(path), path.name), name)
    return section


def check_without_torch(path: Path) -> None:
    """Raises as `read` does, for every section but the recipes, whose towers and losses import torch."""
    fields: dict[str, Any] = {
        name: (
            Any if field.annotation is Recipe else Annotated[field.annotation, *field.metadata, ...],
            ... if field.is_required() else field.default,
        )
        for name, field in Config.model_fields.items()
    }
    _validated(create_model("WithoutRecipes", __base__=Section, **fields), _load(path), path.name)


def parse(content: Any, origin: str = PARAMETERS) -> Config:
    """Returns the configuration in a mapping; raises as `read` does."""
    return _validated(Config, content, origin)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(
            f"{path}: missing", f"Run in a folder that has a {PARAMETERS}, such as a checkout of this project."
        )
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not YAML: {error}", "Correct the line that the message names.") from error


def _validated(kind: type[Model], content: Any, origin: str) -> Model:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise UsageError(
            "\n".join(_explain(origin, fault, content) for fault in error.errors()),
            f"Correct {origin}; {SCHEMA} and each component's config.py say what every key may be.",
        ) from error


def schema() -> dict[str, Any]:
    """Returns the JSON schema of `params.yaml`, which `params.schema.json` holds for editors."""
    return Config.model_json_schema()


def _explain(origin: str, fault: Any, content: Any) -> str:
    keys, known = _place(fault["loc"], content)
    place = ".".join(keys)
    kind, message = fault["type"], fault["msg"]
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(keys[-1], known, n=1)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        return f"{origin}: {place}: unknown key{suggestion}"
    if kind == "missing":
        return f"{origin}: {place}: is missing"
    if kind == "union_tag_not_found":
        return f"{origin}: {place}.kind: is missing"
    if kind == "union_tag_invalid":
        return f"{origin}: {place}.kind: should be {fault['ctx']['expected_tags']}, got {fault['ctx']['tag']!r}"
    if kind == "name_missing":
        return f"{origin}: {place}.{fault['ctx']['key']}: is missing"
    if kind == "name_unknown":
        return f"{origin}: {place}.{fault['ctx']['key']}: {message}, got {fault['ctx']['name']!r}"
    if kind == "value_error":
        return ": ".join(part for part in (origin, place, message.removeprefix("Value error, ")) if part)
    return (
        ": ".join(part for part in (origin, place, message.removeprefix("Input ")) if part)
        + f", got {fault['input']!r}"
    )


def _place(location: tuple[Any, ...], content: Any) -> tuple[list[str], list[str]]:
    """Returns the keys that lead to a place in the file, and those that there may be beside the last one.

    pydantic also names the kind of a section that comes in several kinds, which is no key.
    """
    place: list[str] = []
    known: list[str] = []
    within: Any = Config
    for part in location:
        if chosen := [one for one in get_args(within) if _is_section(one) and part in _kinds(one)]:
            within = chosen[0]
            continue
        place.append(str(part))
        content = content[part] if _holds(content, part) else None
        if _is_section(within):
            known = list(within.model_fields)
            field = within.model_fields.get(part)
            kind, metadata = (field.annotation, field.metadata) if field else (None, [])
        else:
            known, kind = [], (get_args(within) or (None,))[-1]
            metadata = getattr(kind, "__metadata__", [])
        within = _chosen(metadata, content) or kind
    return place, known


def _chosen(metadata: Iterable[Any], content: Any) -> type[Section] | None:
    """Returns the settings of the module that `content` names, where the metadata say that it names one."""
    for found in metadata:
        if isinstance(found, FoundByName) and isinstance(content, Mapping) and content.get(found.key) in found.names():
            return found.settings(content[found.key])
    return None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel)


def _kinds(section: type[BaseModel]) -> tuple[Any, ...]:
    field = section.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def _holds(content: Any, part: Any) -> bool:
    return (isinstance(content, Mapping) and part in content) or (
        isinstance(content, list) and isinstance(part, int) and part < len(content)
    )

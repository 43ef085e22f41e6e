"""One idea, one file, found by its name: sources, towers, losses, ...

A folder holds one module for each, with its `Settings` (a `Section`) beside what it does. A field of the configuration
that is annotated with `FoundByName(folder, key)` takes the settings of any of them: the value of `key` is the module's
name. A new one is a new file, which no list names; only the module that is chosen is imported.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from components.sections import Section


@dataclass(frozen=True)
class FoundByName:
    """The modules of a package, one of which the settings under `key` choose."""

    package: str
    key: str

    def names(self) -> list[str]:
        """Returns the names of all modules, sorted; none of them is imported."""
        folder = importlib.import_module(self.package).__path__
        return sorted(module.name for module in pkgutil.iter_modules([str(Path(place)) for place in folder]))

    def module(self, name: str) -> ModuleType:
        """Returns the module of that name. Raises `ValueError` that names the nearest one if there is none."""
        if name not in self.names():
            close = difflib.get_close_matches(name, self.names(), n=1)
            suggestion = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"should be one of {', '.join(map(repr, self.names()))}{suggestion}")
        return importlib.import_module(f"{self.package}.{name}")

    def of(self, settings: Section) -> Any:
        """Returns the module that the settings belong to."""
        return self.module(getattr(settings, self.key))

    def settings(self, name: str) -> type[Section]:
        """Returns the settings of a module. Raises as `module` does."""
        found: type[Section] = self.module(name).Settings
        return found

    def validate(self, value: object) -> Section:
        """Returns the settings that a mapping holds, or settings as they are."""
        if isinstance(value, Section):
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError("dict_type", "Input should be a valid dictionary")
        if self.key not in value:
            raise PydanticCustomError("name_missing", "is missing", {"key": self.key})
        try:
            settings = self.settings(str(value[self.key]))
        except ValueError as error:
            reason, name = str(error), value[self.key]
            raise PydanticCustomError("name_unknown", reason, {"key": self.key, "name": name}) from error  # type: ignore
        return settings.model_validate(dict(value))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        serialised = core_schema.plain_serializer_function_ser_schema(lambda value: value.model_dump())
        return core_schema.no_info_plain_validator_function(self.validate, serialization=serialised)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"oneOf": [handler(self.settings(name).__pydantic_core_schema__) for name in self.names()]}

"""A file that travels with a model: what the model's classes consist of, in one module that imports nothing of ours.

sentence-transformers, or a server, runs it where this project is not installed. It is no second implementation: it is
made of the source of the classes that run here, and of the definitions that they refer to.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from components.errors import UsageError

PACKAGE = "components"
HEADER = '''# SPDX-License-Identifier: Apache-2.0
#
# Licensed under the Apache License, Version 2.0 (the "License"); you may not use this file except in compliance with
# the License. You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software distributed under the License is distributed on
# an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the License for the
# specific language governing permissions and limitations under the License.
"""{purpose} Embedline has written it, from its own code."""

from __future__ import annotations

'''


def module_source(purpose: str, *classes: type) -> str:
    """Returns the source of one module that defines the classes, and whose docstring begins with its purpose.

    The same classes give the same source. Raises `UsageError` if they need two definitions of one name, or one that is
    not where it is imported from.
    """
    gathered = _Gathered()
    for each in classes:
        gathered.take(each.__module__, each.__name__)
    gathered.take_registrations()
    imports, definitions = "\n".join(sorted(gathered.imports)), "\n\n\n".join(gathered.definitions)
    return f"{HEADER.format(purpose=purpose)}{imports}\n\n\n{definitions}\n"


class _Module:
    """A module of this project, by the statements at its top."""

    def __init__(self, name: str) -> None:
        text = Path(str(sys.modules[name].__file__)).read_text(encoding="utf-8")
        self.name = name
        self.lines = text.splitlines()
        self.statements = ast.parse(text).body
        self.defining = {defined: statement for statement in self.statements for defined in _defined(statement)}

    def source(self, statement: ast.stmt) -> str:
        first = min(node.lineno for node in (statement, *getattr(statement, "decorator_list", ())))
        return "\n".join(self.lines[first - 1 : statement.end_lineno])


class _Gathered:
    """Definitions, each after those that it refers to, and the imports of other packages that they need."""

    def __init__(self) -> None:
        self.modules: dict[str, _Module] = {}
        self.taken: set[ast.stmt] = set()
        self.meanings: dict[str, str] = {}
        self.imports: list[str] = []
        self.definitions: list[str] = []

    def take(self, module_name: str, name: str, alias: str | None = None) -> None:
        """Adds what a module defines as `name`, and what that refers to."""
        if module_name.split(".")[0] != PACKAGE:
            self._import(f"from {module_name} import {name}", name, alias)
            return
        if module_name not in self.modules:
            self.modules[module_name] = _Module(module_name)
        module = self.modules[module_name]
        statement = module.defining.get(name)
        if statement is None or alias:
            raise UsageError(
                f"{module_name}: a model needs {name}, which is not at the top of this module, or is renamed",
                "Import what a tower consists of by its own name, from the module that defines it.",
            )
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self._follow(statement, name)
            return
        self._mean(name, module.source(statement))
        if statement not in self.taken:
            self.taken.add(statement)
            self._take_all(module, statement)

    def take_registrations(self) -> None:
        """Adds what modules call, as they are imported, with the definitions that were taken from them."""
        for module in list(self.modules.values()):
            for statement in module.statements:
                calls = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
                if calls and any(module.defining.get(name) in self.taken for name in _used(statement)):
                    self._take_all(module, statement)

    def _take_all(self, module: _Module, statement: ast.stmt) -> None:
        """Adds what a statement refers to, and then itself."""
        for node in ast.walk(statement):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == PACKAGE:
                raise UsageError(
                    f"{module.name}: imports {node.module} where a model needs it, inside a definition",
                    "Import what a tower consists of at the top of its module.",
                )
        for name in _used(statement):
            if name in module.defining:
                self.take(module.name, name)
        self.definitions.append(module.source(statement))

    def _follow(self, statement: ast.Import | ast.ImportFrom, name: str) -> None:
        """Adds what an import gives the name of."""
        alias = next(alias for alias in statement.names if _bound(alias) == name)
        if isinstance(statement, ast.ImportFrom):
            self.take(str(statement.module), alias.name, alias.asname)
        else:
            self._import(f"import {alias.name}", name, alias.asname)

    def _import(self, line: str, name: str, alias: str | None) -> None:
        line += f" as {alias}" if alias else ""
        self._mean(alias or name, line)
        if line not in self.imports:
            self.imports.append(line)

    def _mean(self, name: str, source: str) -> None:
        if self.meanings.setdefault(name, source) != source:
            raise UsageError(
                f"a model needs two things of the name {name}, and its directory has one file for them: "
                f"{self.meanings[name].splitlines()[0]} and {source.splitlines()[0]}",
                "Call one of them otherwise.",
            )


def _defined(statement: ast.stmt) -> Iterator[str]:
    """Yields the names that a statement at the top of a module gives a meaning."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        yield from map(_bound, statement.names)
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        yield from (
            node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        )


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _used(statement: ast.stmt) -> dict[str, None]:
    """Returns the names that a statement refers to, in the order in which it does."""
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    return dict.fromkeys(node.id for node in names)

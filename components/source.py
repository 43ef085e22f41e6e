"""Which of the project's own files a module's behaviour depends on, read from the source itself.

The import closure of a module are the files that define what it imports, and so on: imports inside functions count,
imports for type checkers do not, and a name that a package re-exports counts as the module that defines it. A file that
a module names by `Path(__file__).with_name("...")` counts too. What is found by its file's name (losses, sources, ...)
is in no closure: the configuration says which of these a stage uses.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "components"
WITHOUT_EFFECT = frozenset(
    f"components/{name}.py" for name in ("__init__", "errors", "progress", "quiet", "source", "stages", "workspace")
)
"""Files that cannot change what a stage makes: messages, switches, the list of stages, where things lie."""


def closure(*modules: str) -> list[str]:
    """Returns the paths, relative to the project's root and sorted, of all files that the modules depend on.

    The modules themselves are among them, the files in `WITHOUT_EFFECT` are not. Raises `FileNotFoundError` for a
    module of the project that does not exist.
    """
    found: set[Path] = set()
    waiting = [_file(module) for module in modules]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _needs(file)
    return sorted({file.relative_to(ROOT).as_posix() for file in found} - WITHOUT_EFFECT)


def code_digest(*modules: str) -> str:
    """Returns one SHA-256 over the paths and contents of the files that the modules depend on."""
    digest = hashlib.sha256()
    for path in closure(*modules):
        digest.update(f"{path}\0{hashlib.sha256((ROOT / path).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def modules_of(package: str) -> list[str]:
    """Returns the names of all modules below a package of the project, sorted."""
    folder = ROOT.joinpath(*package.split("."))
    files = (file for file in folder.rglob("*.py") if file.name != "__init__.py")
    return sorted(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)


def is_module(name: str) -> bool:
    """Returns whether the project has a module of that name."""
    return _module_file(name) is not None


@cache
def _needs(file: Path) -> tuple[Path, ...]:
    if file.suffix != ".py":
        return ()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return tuple(dict.fromkeys([*_imported(tree), *_named_beside(tree, file)]))


def _imported(tree: ast.AST) -> Iterator[Path]:
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from (_file(name) for name in names if _is_ours(name))
        elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            yield from (_definition(node.module, alias.name) for alias in node.names)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields every node but those that only type checkers see."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _executed(child)


def _named_beside(tree: ast.AST, file: Path) -> Iterator[Path]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "with_name":
            names = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            yield from (file.with_name(str(name)) for name in names if file.with_name(str(name)).is_file())


def _definition(module: str, name: str) -> Path:
    """Returns the file that defines `name`, which `module` defines, re-exports, or is the package of."""
    if (inner := _module_file(f"{module}.{name}")) is not None:
        return inner
    file = _file(module)
    if file.name != "__init__.py":
        return file
    for node in _executed(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(node.module, alias.name)
    return file


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == PACKAGE


def _file(module: str) -> Path:
    if (file := _module_file(module)) is None:
        raise FileNotFoundError(f"{module}: no module of this project")
    return file


def _module_file(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    candidates: Iterable[Path] = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)

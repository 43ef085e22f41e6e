"""What is imported is declared: the environment may hold a package by chance, as something else's dependency."""

import ast
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGES = ("cli", "components", "flows", "monitoring", "serving")
IN_TRITON = {
    "self_test_repository",
    "blocked_sockets",
    "triton_model.py",
}  # these run in Triton's environment, not in this one
MODULES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if not IN_TRITON & set(path.parts)
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def names(lines: Iterable[str]) -> set[str]:
    return {canonicalize_name(Requirement(line).name) for line in lines}


DECLARED = names(
    [
        *PROJECT["dependencies"],
        *(line for extra in ("evidently", "mteb", "openlineage", "openvino", "s3") for line in EXTRAS[extra]),
    ]
)
DECLARED_FOR_TESTS = DECLARED | names(line for extra in EXTRAS.values() for line in extra)
TESTS = sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


@pytest.fixture(scope="module")
def distributions() -> Mapping[str, Sequence[str]]:
    return packages_distributions()


def undeclared(source: str, declared: set[str], distributions: Mapping[str, Sequence[str]]) -> set[str]:
    """The top-level modules that a module imports, also inside functions, and that no declared distribution has."""
    names = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    return {
        name
        for name in names - sys.stdlib_module_names - set(PACKAGES)
        if not declared & {canonicalize_name(found) for found in distributions.get(name, ())}
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_import_is_declared(path: Path, distributions: Mapping[str, Sequence[str]]) -> None:
    assert not undeclared(path.read_text(encoding="utf-8"), DECLARED, distributions)


def test_every_import_of_tests_and_benchmarks_is_declared(distributions: Mapping[str, Sequence[str]]) -> None:
    ours = {"tests", "benchmarks", *(path.stem for path in TESTS)}
    for path in TESTS:
        missing = undeclared(path.read_text(encoding="utf-8"), DECLARED_FOR_TESTS, distributions) - ours
        assert not missing, f"{path.relative_to(ROOT)} imports {missing}, which pyproject.toml does not declare"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import click", {"click"}),
        ("def later():\n    from jinja2.nodes import Node", {"jinja2"}),
        ("import no_such_module_at_all", {"no_such_module_at_all"}),
        ("import PIL.Image, yaml, json\nfrom ruamel.yaml import YAML\nfrom components import corpus", set()),
    ],
)
def test_what_is_not_declared_is_found(
    source: str, expected: set[str], distributions: Mapping[str, Sequence[str]]
) -> None:
    assert undeclared(source, DECLARED, distributions) == expected
    assert undeclared("import yaml", DECLARED - {"pyyaml"}, distributions) == {"yaml"}


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in pairs}


def test_every_declared_package_is_locked_at_a_version_in_its_range() -> None:
    for line in [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            continue
        assert requirement.specifier.contains(locked()[canonicalize_name(requirement.name)]), line


def test_the_cpu_build_of_torch_satisfies_the_lock_and_is_preferred() -> None:
    version = locked()["torch"]
    assert not Version(version).local, "the lock serves both builds"
    assert SpecifierSet(f"=={version}").contains(f"{version}+cpu")
    assert Version(f"{version}+cpu") > Version(version)

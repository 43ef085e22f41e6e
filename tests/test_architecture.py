import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cli", "components", "flows", "monitoring", "serving")
ALLOWED = {
    "cli": {"cli", "flows", "components", "serving", "monitoring"},
    "flows": {"flows", "components", "serving", "monitoring"},
    "serving": {"serving", "components"},
    "monitoring": {"monitoring", "components"},
    "components": {"components"},
}
COMPONENTS = {folder.parent.name for folder in (ROOT / "components").glob("*/__init__.py")}
OPEN_TO_ALL = {"corpus", "embedder", "scores", "backends"}
MAY_IMPORT = {
    "corpus": set(),
    "embedder": set(),
    "scores": set(),
    "backends": {"corpus", "embedder"},
    "stages": COMPONENTS,
}
ITEM = "components.corpus.item."
"""What an embedder encodes: the one module of a sibling that it may import."""
MODULES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "self_test_repository" not in path.parts
)


def imports(source: str, with_types: bool = False) -> Iterator[str]:
    """Yields the full names that a module imports; those for type checkers alone only `with_types`."""

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not with_types:
                continue
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, "imports name their module in full"
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            else:
                yield from walk(child)

    return walk(ast.parse(source))


def wrong_packages(package: str, source: str) -> set[str]:
    """The packages of this project that a module imports and should not, not even for its types."""
    return {name.split(".")[0] for name in imports(source, with_types=True)} & set(PACKAGES) - ALLOWED[package]


def wrong_siblings(component: str, source: str) -> set[str]:
    """The components that a module imports and should not."""
    ours = [name for name in imports(source) if name.startswith("components.") and not name.startswith(ITEM)]
    found = {name.split(".")[1] for name in ours} & COMPONENTS
    return found - {component} - MAY_IMPORT.get(component, OPEN_TO_ALL)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    package, *folders = path.relative_to(ROOT).parent.parts
    source = path.read_text(encoding="utf-8")
    assert not wrong_packages(package, source)
    if package == "components" and folders:
        assert not wrong_siblings(folders[0], source)


def test_every_component_is_looked_at() -> None:
    assert {"corpus", "embedder", "scores", "backends", "training", "validation", "registry", "lineage"} <= COMPONENTS
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("components", "import serving", {"serving"}),
        ("components", "def later():\n    from flows.retrain import retrain", {"flows"}),
        ("components", "if TYPE_CHECKING:\n    from flows import retrain", {"flows"}),
        ("serving", "from monitoring.doctor import examine\nimport components", {"monitoring"}),
        ("flows", "import serving, monitoring, components.corpus, prefect", set()),
        ("flows", "from cli.screen import say", {"cli"}),
        ("serving", "def later():\n    from cli import main\n    import flows", {"cli", "flows"}),
        ("cli", "import flows, serving, monitoring, components", set()),
    ],
)
def test_a_wrong_direction_is_found(package: str, source: str, wrong: set[str]) -> None:
    assert wrong_packages(package, source) == wrong


@pytest.mark.parametrize(
    ("component", "source", "wrong"),
    [
        ("corpus", "from components.embedder import Embedder", {"embedder"}),
        ("corpus", "from components import embedder", {"embedder"}),
        (
            "corpus",
            "import components.config\nfrom components.errors import UsageError\nfrom components import corpus",
            set(),
        ),
        ("embedder", "if TYPE_CHECKING:\n    from components.corpus import Item", set()),
        ("embedder", "def encode():\n    from components.corpus import Item", {"corpus"}),
        ("embedder", "from components.corpus.item import Item", set()),
        ("training", "from components.corpus import Item\nfrom components.embedder import Embedder", set()),
        ("embedder", "from components.backends.open import open_embedder", {"backends"}),
        ("backends", "from components.embedder import Embedder\nfrom components.corpus import Item", set()),
        ("stages", "from components.training import train_model\nfrom components.evaluation import run", set()),
        ("training", "from components.stages import say", {"stages"}),
        ("registry", "from components.scores import Scores", set()),
        ("scores", "from components.evaluation import evaluate", {"evaluation"}),
        ("scores", "from components.corpus import Item", {"corpus"}),
        ("training", "from components.registry.tracking import Run", {"registry"}),
    ],
)
def test_a_wrong_sibling_is_found(component: str, source: str, wrong: set[str]) -> None:
    assert wrong_siblings(component, source) == wrong


def test_nothing_of_the_model_needs_prefect() -> None:
    for path in MODULES:
        if path.relative_to(ROOT).parts[0] not in ("cli", "flows"):
            assert not any(name.split(".")[0] == "prefect" for name in imports(path.read_text(encoding="utf-8"))), path

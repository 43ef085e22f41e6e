from pathlib import Path

import pytest

from components import source
from components.source import closure, code_digest

FILES = {
    "components/__init__.py": "",
    "components/errors.py": "class UsageError(Exception): ...\n",
    "components/parts/__init__.py": "from components.parts.one import One\nfrom components.parts.other import Other\n",
    "components/parts/one.py": "from components.errors import UsageError\nclass One: ...\n",
    "components/parts/other.py": "import components.parts.deep\nclass Other: ...\n",
    "components/parts/deep.py": "DEEP = 1\n",
    "components/parts/typed.py": "TYPED = 1\n",
    "components/parts/template.txt": "template",
    "components/parts/kinds/__init__.py": (
        "import importlib\ndef find(name): return importlib.import_module(f'{__name__}.{name}')\n"
    ),
    "components/parts/kinds/named.py": "NAMED = 1\n",
    "components/work.py": (
        "from typing import TYPE_CHECKING\n"
        "from components.parts import One\n"
        "from components.parts.kinds import find\n"
        "if TYPE_CHECKING:\n    from components.parts.typed import TYPED\n"
        "def later():\n    from components.parts import deep\n"
        "TEMPLATE = Path(__file__).with_name('parts').with_name('absent.txt')\n"
    ),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project in place of this one."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(source, "ROOT", tmp_path)
    source._needs.cache_clear()
    return tmp_path


def test_a_closure_holds_what_is_imported_wherever_the_import_stands_and_nothing_else(project: Path) -> None:
    assert closure("components.work") == [
        "components/parts/deep.py",
        "components/parts/kinds/__init__.py",
        "components/parts/one.py",
        "components/work.py",
    ]
    assert closure("components.parts.other") == ["components/parts/deep.py", "components/parts/other.py"]


def test_what_is_found_by_its_name_is_added_by_name(project: Path) -> None:
    assert "components/parts/kinds/named.py" in closure("components.work", "components.parts.kinds.named")


def test_a_file_named_beside_a_module_counts(project: Path) -> None:
    (project / "components/parts/one.py").write_text("TEXT = Path(__file__).with_name('template.txt')\n")
    assert "components/parts/template.txt" in closure("components.parts.one")


@pytest.mark.parametrize(
    ("edited", "changes"),
    [
        ("components/parts/deep.py", True),
        ("components/work.py", True),
        ("components/parts/typed.py", False),
        ("components/parts/other.py", False),
        ("components/parts/kinds/named.py", False),
        ("components/errors.py", False),
    ],
)
def test_the_digest_changes_with_the_code_that_can_change_a_result(project: Path, edited: str, changes: bool) -> None:
    before = code_digest("components.work")
    with (project / edited).open("a") as file:
        file.write("EDITED = 1\n")
    assert (code_digest("components.work") != before) == changes


def test_a_module_that_is_not_there_is_an_error(project: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"components\.absent"):
        closure("components.absent")

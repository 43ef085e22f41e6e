import sys
from pathlib import Path
from types import ModuleType

import pytest

from components.embedder.module_file import module_source
from components.errors import UsageError

TOWER = '''
"""A tower, with more beside it than it needs."""

from __future__ import annotations

import json as notation
from collections import OrderedDict, deque

from components.made_layer import Layer, REGISTERED

WIDTH = HEIGHT = 3


class Unneeded: ...


@staticmethod
class Tower(Layer):
    """Its size is that of its layer."""

    size = WIDTH  # a comment

    def text(self):
        return notation.dumps(OrderedDict(size=self.size, again=Tower.__name__))


REGISTERED.append(Tower)
REGISTERED.append(Unneeded)
'''
LAYER = """
REGISTERED: list = []


class Layer:
    def __init__(self):
        self.height = helper()


def helper():
    return 2
"""


@pytest.fixture
def tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    make("layer", LAYER, tmp_path, monkeypatch)
    kind: type = make("tower", TOWER.replace("@staticmethod\n", ""), tmp_path, monkeypatch).Tower
    return kind


def make(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Returns a module of this project that has the source."""
    module = ModuleType(f"components.made_{name}")
    file = folder / f"{name}.py"
    file.write_text(source)
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, str(file), "exec"), module.__dict__)
    return module


def test_what_a_class_needs_is_there_and_nothing_else(tower: type) -> None:
    source = module_source(tower)
    assert source == module_source(tower)
    names: dict[str, object] = {"__name__": "shipped"}
    exec(source, names)
    made = names["Tower"]
    assert isinstance(made, type) and made is not tower
    assert made().text() == '{"size": 3, "again": "Tower"}' and made().height == 2
    assert names["REGISTERED"] == [made]
    assert "Unneeded" not in source and "deque" not in source and "components" not in source
    assert "# a comment" in source

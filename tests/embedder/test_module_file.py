import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from components.embedder.module_file import module_source
from components.errors import UsageError

LAYER = """
from functools import cache
REGISTERED: list = []

class Layer:
    height = 2

@cache
def helper():
    return Layer.height
"""
TOWER = """
from __future__ import annotations
import json as notation
from collections import OrderedDict, deque
from components.made_layer import REGISTERED, Layer, helper
WIDTH = DEPTH = 3

class Unneeded: ...

class Tower(Layer):
    size = WIDTH  # its own

    def text(self):
        return notation.dumps(OrderedDict(size=self.size, depth=DEPTH, helper=helper(), name=Tower.__name__))

REGISTERED.append(Tower)
REGISTERED.append(Unneeded)
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a module of this project that has the source."""

    def module(name: str, source: str) -> Any:
        made: Any = ModuleType(f"components.made_{name}")
        made.__file__ = str(tmp_path / f"{name}.py")
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setitem(sys.modules, made.__name__, made)
        exec(compile(source, made.__file__, "exec", dont_inherit=True), made.__dict__)
        return made

    return module


def test_what_a_class_needs_is_there_and_nothing_else(make: Any) -> None:
    make("layer", LAYER)
    tower = make("tower", TOWER).Tower
    source = module_source("A tower.", tower)
    assert source == module_source("A tower.", tower)
    names: dict[str, Any] = {"__name__": "shipped"}
    exec(compile(source, "shipped.py", "exec", dont_inherit=True), names)
    assert names["Tower"] is not tower
    assert names["Tower"]().text() == '{"size": 3, "depth": 3, "helper": 2, "name": "Tower"}' == tower().text()
    assert names["REGISTERED"] == [names["Tower"]]
    for absent in ("Unneeded", "deque", "components"):
        assert absent not in source
    assert source.count("WIDTH = DEPTH = 3") == 1 and "# its own" in source and "@cache" in source


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        ("from components.made_layer import Layer as Other\nclass Tower(Other): ...", "needs Layer, which is not"),
        ("from components import made_layer\nclass Tower(made_layer.Layer): ...", "needs made_layer, which is not"),
        (
            "class Tower:\n    def layer(self):\n        from components.made_layer import Layer",
            "imports components",
        ),
        ("class Layer: ...\nclass Tower(Layer): ...", "two things of the name Layer"),
        ("from io import StringIO as Layer\nclass Tower(Layer): ...", "two things of the name Layer"),
    ],
)
def test_what_one_file_cannot_hold_is_refused(make: Any, tower: str, message: str) -> None:
    layer = make("layer", LAYER).Layer
    made = make("tower", tower).Tower
    with pytest.raises(UsageError, match=message) as raised:
        module_source("Two.", layer, made)
    assert raised.value.remedy


def test_a_class_of_another_package_is_imported() -> None:
    assert "\nfrom collections import OrderedDict\n" in module_source(
        "A library's.", __import__("collections").OrderedDict
    )

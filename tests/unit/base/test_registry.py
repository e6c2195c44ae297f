"""What a folder declares is found, and two of one name are refused."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from servegauge.base.registry import instances, subclasses

DECLARATION = """
from tests.unit.base.test_registry import Base, Thing
THING = Thing({name!r})
AGAIN = THING
class Own(Base):
    name = {name!r}
"""


@dataclass(frozen=True)
class Thing:
    name: str


class Base:
    name: str


@pytest.fixture
def package(tmp_path, monkeypatch) -> ModuleType:
    (tmp_path / "made_up_things").mkdir()
    (tmp_path / "made_up_things" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("made_up_things")]:
        del sys.modules[name]
    return importlib.import_module("made_up_things")


def declare(package: ModuleType, module: str, name: str) -> None:
    folder = package.__path__[0]
    with open(f"{folder}/{module}.py", "w", encoding="utf-8") as file:
        file.write(DECLARATION.format(name=name))
    importlib.invalidate_caches()


def test_objects_and_classes_are_found_by_their_names(package) -> None:
    declare(package, "b", "first")
    declare(package, "a", "second")
    assert list(instances(package, Thing)) == ["second", "first"]
    assert list(subclasses(package, Base)) == ["second", "first"]


def test_two_of_one_name_are_refused_and_both_places_are_named(package) -> None:
    declare(package, "a", "same")
    declare(package, "b", "same")
    for look, kind in ((instances, Thing), (subclasses, Base)):
        with pytest.raises(ValueError, match=r"made_up_things.b declares 'same', which made_up_things.a declares too"):
            look(package, kind)

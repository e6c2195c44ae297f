"""Finding what is declared, one file or one declaration each, by looking into a package's folder.

A registry is a package: each module in it declares objects (or classes) of one kind at its top. Whoever needs them asks
here, so that adding one is adding a file, and no list of names stands anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Protocol, TypeVar


class Named(Protocol):
    """What a registry can hold."""

    @property
    def name(self) -> str: ...


T = TypeVar("T")
N = TypeVar("N", bound=Named)


def names(package: ModuleType) -> list[str]:
    """Names of the modules of `package`, without importing one."""
    return sorted(entry.name for entry in pkgutil.iter_modules(package.__path__))


def instances(package: ModuleType, kind: type[N]) -> dict[str, N]:
    """Every object of `kind` at the top of a module of `package`, by its `name`, in the order of modules and lines.

    ValueError where two declarations have one name: the message names both modules.
    """
    found: dict[str, N] = {}
    where: dict[str, str] = {}
    for module in _modules(package):
        for one in vars(module).values():
            if isinstance(one, kind) and not any(one is other for other in found.values()):
                _add(found, where, one.name, one, module.__name__)
    return found


def subclasses(package: ModuleType, base: type[T]) -> dict[str, type[T]]:
    """Every subclass of `base` that a module of `package` defines with a `name` of its own, by that name.

    ValueError where two classes have one name: the message names both modules.
    """
    found: dict[str, type[T]] = {}
    where: dict[str, str] = {}
    for module in _modules(package):
        for one in vars(module).values():
            own = isinstance(one, type) and one.__module__ == module.__name__ and "name" in vars(one)
            if own and issubclass(one, base) and one is not base:
                _add(found, where, one.name, one, module.__name__)
    return found


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for name in names(package):
        yield importlib.import_module(f"{package.__name__}.{name}")


def _add(found: dict[str, Any], where: dict[str, str], name: str, one: Any, module: str) -> None:
    if name in found:
        raise ValueError(f"{module} declares {name!r}, which {where[name]} declares too; give one of them another name")
    found[name], where[name] = one, module

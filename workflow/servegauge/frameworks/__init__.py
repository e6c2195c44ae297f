"""The frameworks: one file each, found by looking into this folder. Nothing else knows a framework by name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from servegauge.base.errors import UserError, did_you_mean
from servegauge.frameworks.base import Framework


@cache
def frameworks() -> dict[str, Framework]:
    """Every framework by name, in alphabetical order."""
    found: dict[str, Framework] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda entry: entry.name):
        if module.name == "base":
            continue
        members = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        own = [
            kind for kind in members if isinstance(kind, type) and issubclass(kind, Framework) and "name" in vars(kind)
        ]
        found.update({kind.name: kind() for kind in own})
    return found


def framework(name: str) -> Framework:
    """The framework called `name`, or of the build `name@build`; UserError lists the ones that exist."""
    known, name = frameworks(), name.partition("@")[0]
    if name not in known:
        raise UserError(f"unknown framework {name!r}; there are: {', '.join(known)}.{did_you_mean(name, known)}")
    return known[name]

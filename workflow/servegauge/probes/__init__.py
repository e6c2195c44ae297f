"""Probes: what a platform can do by itself. One file each, found here; docs/probes.md says what each measures."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from servegauge.base.errors import UserError, did_you_mean
from servegauge.probes import suite
from servegauge.probes.harness.base import Probe


@cache
def registry() -> dict[str, Probe]:
    """Every probe by name. Importing a probe's module imports neither torch nor numpy's libraries beyond numpy."""
    found: dict[str, Probe] = {}
    for module in pkgutil.iter_modules(suite.__path__):
        members = vars(importlib.import_module(f"{suite.__name__}.{module.name}")).values()
        for member in members:
            own = isinstance(member, type) and member.__module__ == f"{suite.__name__}.{module.name}"
            if own and issubclass(member, Probe) and member is not Probe:
                found[member.name] = member()
    return dict(sorted(found.items()))


def get(name: str) -> Probe:
    """The probe called `name`; UserError lists what there is."""
    probes = registry()
    if name not in probes:
        have = ", ".join(probes)
        raise UserError(f"no probe is called {name!r}; there are: {have}, or all.{did_you_mean(name, probes)}")
    return probes[name]

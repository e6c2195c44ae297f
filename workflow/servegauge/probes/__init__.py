"""Probes: what a platform can do by itself. One file each, found here; docs/probes.md says what each measures."""

from __future__ import annotations

from functools import cache

from servegauge.base.errors import UserError, did_you_mean
from servegauge.base.registry import subclasses
from servegauge.probes import suite
from servegauge.probes.harness.base import Probe


@cache
def registry() -> dict[str, Probe]:
    """Every probe by name. Importing a probe's module imports neither torch nor numpy's libraries beyond numpy."""
    return {name: kind() for name, kind in sorted(subclasses(suite, Probe).items())}


def get(name: str) -> Probe:
    """The probe called `name`; UserError lists what there is."""
    probes = registry()
    if name not in probes:
        have = ", ".join(probes)
        raise UserError(f"no probe is called {name!r}; there are: {have}, or all.{did_you_mean(name, probes)}")
    return probes[name]

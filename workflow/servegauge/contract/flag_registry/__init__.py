"""Every flag: a file each, found by looking into this folder. `contract/flag.py` says what one is."""

from __future__ import annotations

import sys
from functools import cache

from servegauge.base.registry import instances
from servegauge.contract.flag import Flag, Threshold


@cache
def flags() -> dict[str, Flag]:
    """Every flag by name, in the order in which tables and pages show them. ValueError: two have one threshold."""
    found = instances(sys.modules[__name__], Flag)
    ordered = dict(sorted(found.items(), key=lambda item: (item[1].position, item[0])))
    names = [one.name for flag in ordered.values() for one in flag.thresholds]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"thresholds of two flags: {', '.join(sorted(twice))}; give one of them another name")
    return ordered


def thresholds() -> dict[str, Threshold]:
    """Every threshold by its name, as in a study's `validity:`."""
    return {one.name: one for flag in flags().values() for one in flag.thresholds}


def of_severity(*severities: str) -> frozenset[str]:
    """Names of the flags of these severities."""
    return frozenset(flag.name for flag in flags().values() if flag.severity in severities)

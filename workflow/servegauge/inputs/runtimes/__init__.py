"""Every container runtime: a file each, found by looking into this folder."""

from __future__ import annotations

import sys
from functools import cache

from servegauge.base.errors import UserError, did_you_mean
from servegauge.base.registry import subclasses
from servegauge.inputs.runtime import Runtime

DEFAULT = "apptainer"


@cache
def runtimes() -> dict[str, Runtime]:
    """Every runtime by the name that `frameworks.<name>.runtime` of a platform takes."""
    return {name: kind() for name, kind in sorted(subclasses(sys.modules[__name__], Runtime).items())}


def runtime(name: str) -> Runtime:
    """The runtime called `name`; UserError lists the ones that exist."""
    known = runtimes()
    if name not in known:
        raise UserError(f"runtime: {name!r} is unknown; choose one of {', '.join(known)}.{did_you_mean(name, known)}")
    return known[name]

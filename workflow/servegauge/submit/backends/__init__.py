"""How a job reaches its node, one file each, found by looking into this folder."""

from __future__ import annotations

import sys
from functools import cache

from servegauge.base.errors import UserError, did_you_mean
from servegauge.base.registry import subclasses
from servegauge.submit.backend import Backend


@cache
def backends() -> dict[str, type[Backend]]:
    """Every backend by the name that `submit:` takes."""
    return subclasses(sys.modules[__name__], Backend)  # type: ignore[type-abstract]


def backend(name: str) -> type[Backend]:
    """The backend called `name`; UserError lists the ones that exist."""
    known = backends()
    if name not in known:
        raise UserError(f"submit={name!r} is unknown; choose one of {', '.join(known)}.{did_you_mean(name, known)}")
    return known[name]

"""Every exporter: a file each, found by looking into this folder."""

from __future__ import annotations

import sys
from functools import cache

from servegauge.base.registry import subclasses
from servegauge.exchange.formats import Exporter


@cache
def exporters() -> dict[str, Exporter]:
    """Every exporter by name."""
    return {name: kind() for name, kind in sorted(subclasses(sys.modules[__name__], Exporter).items())}

"""Every figure of the report: files of declarations, found by looking into this folder."""

from __future__ import annotations

import sys
from functools import cache

from servegauge.base.registry import instances
from servegauge.report.figure import Figure


@cache
def figures() -> dict[str, Figure]:
    """Every figure by name, in the order in which the page shows them."""
    found = instances(sys.modules[__name__], Figure)
    return dict(sorted(found.items(), key=lambda item: (item[1].position, item[0])))

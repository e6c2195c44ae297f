"""Formats of recorded traffic, a file each, found by looking into this folder; `workloads/recording.py` is the base."""

from __future__ import annotations

import sys
from functools import cache

from servegauge.base.registry import instances
from servegauge.workloads.recording import Format


@cache
def formats() -> dict[str, Format]:
    """Every format by the kind of prompt set that it is."""
    return instances(sys.modules[__name__], Format)

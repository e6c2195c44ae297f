"""Formats of recorded traffic, a file each, found by looking into this folder; `workloads/recording.py` is the base.

The name of a file is the name of its format, and a kind of prompt set.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

from servegauge.base.registry import instances, names
from servegauge.contract.yaml_schema import REGISTRIES

if TYPE_CHECKING:
    from servegauge.workloads.recording import Format


def kinds() -> list[str]:
    """The kinds of prompt sets that are recordings."""
    return names(sys.modules[__name__])


@cache
def formats() -> dict[str, Format]:
    """Every format by its kind."""
    from servegauge.workloads.recording import Format  # imports numpy, which few studies need

    return instances(sys.modules[__name__], Format)


REGISTRIES["recorded_kinds"] = lambda: {"enum": kinds()}

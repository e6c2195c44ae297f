"""Means of numbers of which some may not be known."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are known; None where none is."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None

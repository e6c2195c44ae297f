"""The shift function of a condition: what the launches of both sides give it, failed requests counted as +infinity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from servegauge.compare.censored import quantile
from servegauge.compare.conditions import Condition
from servegauge.compare.shift import SHARES, Shift, shift_function
from servegauge.contract.columns import Row
from servegauge.contract.metric import required_sample
from servegauge.dataset.study_view import Study

FAR = 0.99  # added where every cell carries it


def same_load(cells: Condition) -> bool:
    """Whether a condition can have a shift function: both sides answered requests of one load."""
    return not cells.unlike and not cells.search and all(row["requests_ok"] for row in cells.rows)


def shift_of(study: Study, cells: Condition, family: str) -> list[Shift] | None:
    """The ratio of a latency (`ttft`, ...) at each quantile; None where loads differ or nothing was answered."""
    if not same_load(cells):
        return None
    few = min(row["requests_ok"] for row in cells.rows) < required_sample(FAR)
    shares = SHARES if few else (*SHARES, FAR)
    base, other = (_quantiles(study, rows, family, shares) for rows in (cells.base, cells.other))
    if base is None or other is None:
        return None
    return shift_function(base, other, shares, paired=cells.paired)


def _quantiles(study: Study, rows: Sequence[Row], family: str, shares: Sequence[float]) -> np.ndarray | None:
    """Shape (launches, shares); None where a launch has no value."""
    found = []
    for row in rows:
        ordered = study.samples(row, family)
        values = [quantile(ordered, row["requests"] - row["requests_ok"], share) for share in shares]
        if not len(ordered) or None in values:
            return None
        found.append(values)
    return np.array(found, dtype=float)

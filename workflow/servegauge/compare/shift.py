"""The shift function: the ratio at each quantile of the distribution, with one band around all of them.

Assumption: the logarithm of each quantile's ratio inside a repeat is normal over repeats; how quantiles depend on each
other is not assumed (Bonferroni over the quantiles), so the band holds all of them at once with at least the stated
probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servegauge.compare.effect import FEWEST_FOR_VERDICT
from servegauge.compare.student import combined, estimate

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Shift:
    """The ratio at one quantile; `low` and `high` belong to the band. None where failed requests hide the quantile."""

    share: float
    ratio: float | None
    low: float | None
    high: float | None


def shift_function(
    base: np.ndarray, other: np.ndarray, shares: Sequence[float] = SHARES, confidence: float = 0.95, paired: bool = True
) -> list[Shift]:
    """One `Shift` per share. `base`, `other`: quantiles by launch, (R, shares) and (S, shares); R = S if paired."""
    base, other = np.asarray(base, dtype=float), np.asarray(other, dtype=float)
    if base.ndim != 2 or other.ndim != 2 or not base.shape[1] == other.shape[1] == len(shares):
        raise ValueError(f"one column per share: found {base.shape} and {other.shape} for {len(shares)} shares")
    if paired and base.shape != other.shape:
        raise ValueError(f"paired launches: found {len(base)} and {len(other)}")
    usable = [index for index in range(len(shares)) if _usable(base[:, index]) and _usable(other[:, index])]
    level = 1 - (1 - confidence) / max(1, len(usable))
    found = []
    for index, share in enumerate(shares):
        if index not in usable:
            found.append(Shift(share, None, None, None))
            continue
        below, above = np.log(base[:, index]), np.log(other[:, index])
        ratio = math.exp(above.mean() - below.mean())
        if min(len(below), len(above)) < FEWEST_FOR_VERDICT:
            found.append(Shift(share, ratio, None, None))
            continue
        one = estimate(above - below) if paired else combined((estimate(below), estimate(above)), (-1.0, 1.0))
        found.append(Shift(share, ratio, *one.interval(level)))
    return found


def _usable(values: np.ndarray) -> bool:
    return len(values) > 0 and bool((np.isfinite(values) & (values > 0)).all())

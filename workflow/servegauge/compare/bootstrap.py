"""Quantiles drawn again and again, exactly and cheaply.

The k-th smallest of n values drawn with replacement from n sorted values is the value number ceil(n U), where U is the
k-th smallest of n uniform numbers and so has a beta distribution. A replicate costs one or two random numbers instead
of n, and is exact.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from servegauge.contract.spec import canonical_json


def resample_quantile(
    ordered: np.ndarray, quantile: float, size: int, rng: np.random.Generator, count: int | None = None
) -> np.ndarray:
    """`size` bootstrap replicates of a quantile (linear between order statistics) of the sorted values `ordered`.

    `count`: how many values a replicate draws; the number of values where not given.
    """
    n = count or len(ordered)
    rank = (n - 1) * quantile
    below = math.floor(rank)
    # The (below + 1)-th smallest of n uniform numbers, then the next one given it.
    first = rng.beta(below + 1, n - below, size)
    values = ordered[_index(first, len(ordered))]
    if rank == below:
        return values
    second = 1 - (1 - first) * rng.beta(n - below - 1, 1, size)
    return values + (rank - below) * (ordered[_index(second, len(ordered))] - values)


def _index(uniform: np.ndarray, count: int) -> np.ndarray:
    return np.clip(np.ceil(uniform * count).astype(np.int64) - 1, 0, count - 1)


def interval(drawn: np.ndarray | None) -> tuple[float | None, float | None]:
    """The middle 95 % of the replicates; null without any."""
    if drawn is None or not np.isfinite(drawn).all():
        return None, None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def seed(*parts: Any) -> int:
    """A seed from everything that names a draw, so that it does not depend on what was drawn before."""
    return int(hashlib.sha256(canonical_json(list(parts)).encode()).hexdigest()[:16], 16)

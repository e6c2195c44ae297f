"""A quantile and its distribution-free interval: the two order statistics that enclose it with 95 % probability.

Assumption: observations are independent. For the gaps of one request (ITL) and for requests that queued together that
is an approximation.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from servegauge.contract.metric import CONFIDENCE


def quantile(ordered: np.ndarray, share: float, infinite: int = 0) -> tuple[float | None, float | None, float | None]:
    """Quantile of `ordered` (ascending, shape (n,)) and both ends of its distribution-free 95 % interval.

    `infinite` further values are larger than all of them: what would need one of those is None (`is_censored`).
    """
    count = len(ordered) + infinite
    if not count:
        return None, None, None
    low, high = interval_ranks(count, share)

    def at(rank: int | None) -> float | None:
        return None if rank is None or rank > len(ordered) else float(ordered[rank - 1])

    value = None
    if not infinite:
        value = float(np.quantile(ordered, share))
    elif not is_censored(len(ordered), share, infinite):
        place = (count - 1) * share
        below = math.floor(place)
        part = place - below
        value = float(ordered[below]) if not part else float(ordered[below] * (1 - part) + ordered[below + 1] * part)
    return value, at(low), at(high)


def is_censored(finite: int, share: float, infinite: int) -> bool:
    """True where the `share` quantile of `finite` values and `infinite` larger ones is not known from the former."""
    return bool(infinite) and math.ceil((finite + infinite - 1) * share) >= finite


@lru_cache(maxsize=4096)
def interval_ranks(count: int, share: float) -> tuple[int | None, int | None]:
    """Ranks (from 1) of the order statistics that enclose the `share` quantile of `count` values with 95 % probability.

    With B ~ Binomial(count, share) the number of values below the quantile: the largest low with P(B < low) <= 2.5 %,
    and the smallest high with P(B >= high) <= 2.5 %. Null where there is none.
    """
    tail = (1 - CONFIDENCE) / 2
    spread = 12 * math.sqrt(count * share * (1 - share)) + 20
    first, last = max(0, math.floor(count * share - spread)), min(count, math.ceil(count * share + spread))
    whole, yes, no = math.lgamma(count + 1), math.log(share), math.log1p(-share)

    def log_mass(k: int) -> float:
        return whole - math.lgamma(k + 1) - math.lgamma(count - k + 1) + k * yes + (count - k) * no

    mass = np.exp([log_mass(k) for k in range(first, last + 1)])
    below = np.cumsum(mass)  # P(B <= k)
    low = first + int(np.searchsorted(below, tail, side="right"))  # P(B <= low - 1) <= tail < P(B <= low)
    from_here = np.cumsum(mass[::-1])[::-1]  # P(B >= k)
    small = np.flatnonzero(from_here <= tail)
    high = first + int(small[0]) if len(small) else None
    return (low if low >= 1 else None), (high if high is not None and 1 <= high <= count else None)

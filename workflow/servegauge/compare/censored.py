"""Quantiles of requests some of which never got an answer.

Assumption: a request that failed would have taken longer than every request that was answered: it is +infinity.
"""

from __future__ import annotations

import math

import numpy as np


def quantile(ordered: np.ndarray, failed: int, share: float) -> float | None:
    """The `share` quantile (linear between order statistics) of ascending `ordered`, shape (n,), and `failed` x inf.

    Infinite where a failed request would be needed to tell it; None where there is no request at all.
    """
    count = len(ordered) + failed
    if not count:
        return None
    rank = (count - 1) * share
    below = math.floor(rank + 1e-9)
    part = max(0.0, rank - below)
    if below >= len(ordered) or (part > 1e-9 and below + 1 >= len(ordered)):
        return math.inf
    first = float(ordered[below])
    return first if part <= 1e-9 else first + part * (float(ordered[below + 1]) - first)

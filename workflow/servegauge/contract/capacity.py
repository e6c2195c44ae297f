"""What a search for the capacity promises, and what it takes: for plans and for launches."""

from __future__ import annotations

import math

PRECISION = 0.03  # high / low of the bracket, less 1
CONFIDENCE = 0.95  # that the share of requests which meet the SLO is what was asked
HALVINGS = math.ceil(math.log2(math.log(2) / math.log(1 + PRECISION)))  # of a factor of two, on the logarithm


def scatter(requests: int) -> float:
    """Deviation of the logarithm, about the largest, between searches of so many requests with draws of their own.

    Simulated with Poisson arrivals, exponential answers and 8 slots: docs/statistics.md has this and kinder cases.
    """
    return 2.5 / math.sqrt(requests)


def search_seconds(requests: int, first_rps: float, request_s: float = 0.0, overhead_s: float = 5.0) -> float:
    """About how long a search takes at most, unless the capacity is below the first rate: then it takes longer.

    Doubling costs as much as two windows at the first rate, and each halving at most one; a rate that is not carried
    keeps the load on until its window is answered, about one more.
    """
    steps = 3 + HALVINGS
    return (steps + 1) * requests / first_rps + steps * (2 * request_s + overhead_s)


def fewest_requests(share: float) -> int:
    """Requests of which none may miss, for the bound to reach `share`: 299 for 0.99."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(share))

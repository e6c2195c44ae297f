"""How the capacity of a server is searched: the highest rate at which a share of the requests meets an SLO.

Rates are doubled or halved until one attains and one does not, then the bracket is halved on the logarithm until it is
no wider than the precision. A rate attains if the share that met the limits does so surely (a lower binomial bound),
and the server was not saturated.

The first rate is drawn within one step of the final grid, by the cell's name: each launch has a grid of its own, so
that what the grid rounds off is seen as scatter between launches, and averages out of a ratio, instead of being the
same error in every launch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from servegauge.contract.capacity import CONFIDENCE, HALVINGS, PRECISION
from servegauge.contract.spec import digest

LEAST_PART = 1 / 64  # of the first rate: below, nothing is tried


@dataclass(frozen=True)
class Bracket:
    """`low_rps`: the highest rate that attained, null where none did; `high_rps`: the lowest that did not."""

    low_rps: float | None
    high_rps: float | None


def search(attains: Callable[[float], bool], first_rps: float, most_rps: float) -> Bracket:
    """Bracket the capacity to PRECISION, asking `attains` of one rate (1/s) after the other.

    One-sided where no rate up to `most_rps` fails, or none down to LEAST_PART of the first one attains.
    """
    low: float | None = None
    high: float | None = None
    rate, least = min(first_rps, most_rps), first_rps * LEAST_PART
    while low is None or high is None:
        if attains(rate):
            low = rate
            if high is None and rate >= most_rps:
                break
            rate = min(2 * rate, most_rps)
        else:
            high = rate
            if low is None and rate <= least:
                break
            rate = max(rate / 2, least)
    while low and high and high / low > 1 + PRECISION:
        middle = math.sqrt(low * high)
        if attains(middle):
            low = middle
        else:
            high = middle
    return Bracket(low, high)


def first_rate(asked_rps: float, cell: str) -> float:
    """Where the search of the cell of this name begins: `asked_rps`, or up to one step of the final grid above."""
    part = int(digest(cell, 8), 16) / 16**8
    return asked_rps * 2 ** (part / 2**HALVINGS)


def range_of(first_rps: float, most_rps: float) -> list[float]:
    """Rates at most four times apart, from the first of a search to its highest, where the instrument is calibrated.

    Each holds for about twice and half of itself. A search that goes down needs no more than the first.
    """
    steps = math.ceil(math.log(most_rps / first_rps, 4))
    return [first_rps * (most_rps / first_rps) ** (step / steps) for step in range(steps)] + [most_rps]


def lower_bound(met: int, requests: int) -> float:
    """Share that surely meets the limits where `met` of `requests` did: the one-sided Clopper-Pearson bound."""
    if not met:
        return 0.0
    from scipy.special import betaincinv

    return float(betaincinv(met, requests - met + 1, 1 - CONFIDENCE))

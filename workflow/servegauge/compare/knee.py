"""The knee of a server under rising load: up to where goodput follows what is offered, and how it goes on from there.

Assumption: the share of requests that meet the SLO does not rise with the rate but for chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FOLLOWS = 0.95  # share of the requests that meet the SLO
BEYOND = 1.25  # times the knee: where the label is taken
HALF = 0.5  # share of the requests there, below which it is a cliff
SMOOTH, CLIFF = "smooth", "cliff"


@dataclass(frozen=True)
class Knee:
    """`rate_rps`: the highest rate tried up to which goodput follows; `kind`: SMOOTH or CLIFF."""

    rate_rps: float
    kind: str


def knee(rates: Sequence[float], shares: Sequence[float]) -> Knee | None:
    """The knee of shares that met the SLO at `rates` (1/s), both of shape (n,).

    None where no rate was carried, or none beyond the last one carried was tried: then nothing bends.
    """
    order = np.argsort(rates)
    x, y = np.asarray(rates, float)[order], np.asarray(shares, float)[order]
    below = np.flatnonzero(y < FOLLOWS)
    if not len(x) or not len(below) or below[0] == 0:
        return None
    at = float(x[below[0] - 1])
    there = float(np.interp(math.log(BEYOND * at), np.log(x), y))
    return Knee(at, SMOOTH if there >= HALF else CLIFF)

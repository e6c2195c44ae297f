"""A published figure against one's own: reproduced or not, and what the publication itself can carry.

Assumption: logarithms of a launch's statistic are normal, as everywhere here; a published mean with deviation and n is
of n independent values. What was published without n has no error of its own here, which makes "differs" easier to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from servegauge.compare.effect import FEWEST_FOR_VERDICT
from servegauge.compare.student import Estimate, combined, estimate

REPRODUCED, DIFFERS, UNDECIDED, NOT_JUDGED = "reproduced", "differs", "undecided", "not judged"
NOT_COMPARABLE, NOT_MEASURED = "not comparable", "not measured"

OUTCOMES: dict[str, str] = {
    REPRODUCED: "measured and published surely lie within the tolerance of each other",
    DIFFERS: "they differ, and by more than the tolerance; how much stands beside it",
    UNDECIDED: "the data allow both; more repeats would tell",
    NOT_JUDGED: "measured fewer than three times, or a flag forbids a verdict; the reason stands beside it",
    NOT_COMPARABLE: "something else was measured: another GPU, model or load; the reason stands beside it",
    NOT_MEASURED: "the study has no such number (yet); the reason stands beside it",
}
"""Every verdict on a published figure and what it says."""

ALPHA = 0.05
MOST_N = 1000  # up to which it is asked how many values a side would have distinguished a published pair


@dataclass(frozen=True)
class Figure:
    """A published number above 0, or a range; `error` is the standard error of its logarithm where that follows."""

    low: float
    high: float
    deviation: float | None = None
    n: int | None = None
    error: Estimate | None = None

    @classmethod
    def of(cls, value: float | Sequence[float], deviation: float | None = None, n: int | None = None) -> Figure:
        """`value`: a number or the two ends of a range; `deviation` of the `n` values whose mean it is."""
        ends = [float(one) for one in value] if isinstance(value, Sequence) else [float(value)]
        error = None
        if deviation and n and n > 1:
            error = Estimate(0.0, deviation / ends[0] / math.sqrt(n), n - 1)
        return cls(min(ends), max(ends), deviation, n, error)

    def over(self, base: Figure) -> Figure:
        """The ratio of two published numbers."""
        error = None
        if self.error is not None and base.error is not None:
            error = combined((self.error, base.error), (1.0, -1.0))
        return Figure(self.low / base.high, self.high / base.low, error=error)

    @property
    def middle(self) -> float:
        """The value; of a range its geometric middle."""
        return math.sqrt(self.low * self.high) if self.high > self.low else self.low

    def nearest(self, log: float) -> float:
        """What a number of this logarithm differs from: the value; a range's nearer end, or inside it its middle."""
        value = math.exp(log)
        return self.low if value < self.low else self.high if value > self.high else self.middle


@dataclass(frozen=True)
class Outcome:
    """`difference`: measured / published - 1, with its 95 % interval; null where it is not known. It is from the nearer
    end of a published range, or from the range's middle for what lies inside."""

    verdict: str
    reason: str | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None


def exactly(value: float, figure: Figure, tolerance: float) -> Outcome:
    """The outcome of a number that has no scatter, such as a size that is computed."""
    log = _outside(math.log(value), figure)
    verdict = REPRODUCED if abs(log) <= math.log1p(tolerance) else DIFFERS
    return Outcome(verdict, None, value / figure.nearest(math.log(value)) - 1)


def outcome(logs: Sequence[float], figure: Figure, tolerance: float) -> Outcome:
    """The outcome of the logarithms of one number a launch, shape (R,), R >= 1."""
    if len(logs) < 2:
        difference = math.exp(logs[0] - math.log(figure.nearest(logs[0]))) - 1
        return Outcome(NOT_JUDGED, "1 repeat: how much launches differ is not known", difference)
    return of_estimate(estimate(logs), len(logs), figure, tolerance)


def of_estimate(found: Estimate, repeats: int, figure: Figure, tolerance: float) -> Outcome:
    """The same of an estimate of the logarithm that rests on so many repeats."""
    if figure.error is not None:
        found = combined((found, figure.error), (1.0, 1.0))
    published = math.log(figure.nearest(found.mean))
    low, high = Estimate(found.mean - published, found.error, found.degrees).interval(1 - ALPHA)
    numbers = {"difference": math.exp(found.mean - published) - 1, "low": low - 1, "high": high - 1}
    if repeats < FEWEST_FOR_VERDICT:
        why = f"{repeats} repeats give an interval, a verdict takes {FEWEST_FOR_VERDICT}"
        return Outcome(NOT_JUDGED, why, **numbers)
    # As far from the published range as its nearer end; inside it, the range widens the tolerance on its side.
    away = Estimate(_outside(found.mean, figure), found.error, found.degrees)
    if away.mean == 0.0 and figure.high > figure.low:
        rooms = [found.mean - math.log(figure.low), math.log(figure.high) - found.mean]
        sure = max(_within(room + math.log1p(tolerance), found) for room in rooms) < ALPHA
    else:
        sure = away.p_equal(tolerance) < ALPHA
    if sure:
        return Outcome(REPRODUCED, None, **numbers)
    if away.p_difference() < ALPHA and abs(away.mean) > math.log1p(tolerance):
        return Outcome(DIFFERS, None, **numbers)
    return Outcome(UNDECIDED, f"could be {100 * (low - 1):+.1f} to {100 * (high - 1):+.1f} %", **numbers)


def _outside(log: float, figure: Figure) -> float:
    """How far a logarithm lies outside the published range, with its sign; 0 inside."""
    low, high = math.log(figure.low), math.log(figure.high)
    return min(0.0, log - low) + max(0.0, log - high)


def _within(room: float, found: Estimate) -> float:
    """One-sided p value of "the mean is beyond an end that is `room` away"."""
    return Estimate(math.log1p(0.0), found.error, found.degrees).p_equal(math.expm1(room))


@dataclass(frozen=True)
class Pair:
    """Whether two published means differ at their own n. `p` is null without n; `needed`: fewest values a side that
    would tell them apart, null where none up to `MOST_N` do or a deviation is not given."""

    p: float | None
    needed: int | None
    words: str


def pair(one: Figure, other: Figure) -> Pair:
    """Welch's test from mean, deviation and n of either side."""
    if one.deviation is None or other.deviation is None:
        return Pair(None, None, "its scatter is not published: it is unknown whether the two differ")
    needed = next((n for n in range(2, MOST_N + 1) if _welch(one, n, other, n) < ALPHA), None)
    if one.n is None or other.n is None:
        words = f"from {needed} values a side on" if needed else f"not up to {MOST_N} values a side"
        return Pair(None, needed, f"n is not published: the two can be distinguished {words}")
    p = _welch(one, one.n, other, other.n)
    apart = "can be distinguished" if p < ALPHA else "cannot be distinguished"
    return Pair(p, needed, f"the two {apart} at the published n (Welch, p = {p:.2g})")


def _welch(one: Figure, n: int, other: Figure, m: int) -> float:
    """Two-sided p value of "the means are equal", on the values themselves as they were published."""
    if n < 2 or m < 2:
        return 1.0
    sides = [
        Estimate(side.middle, (side.deviation or 0.0) / math.sqrt(count), count - 1)
        for side, count in ((one, n), (other, m))
    ]
    return combined(sides, (-1.0, 1.0)).p_difference()

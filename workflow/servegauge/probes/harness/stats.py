"""How often a case is repeated, and the statistics of its samples. Standard library only: see `base.py`."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
FEWEST_FOR_INTERVAL = 6  # below this no two order statistics enclose the median with 95 % confidence
FEWEST_FOR_RATIO = 7  # and below this not with the 97.5 % that each side of a ratio needs


@dataclass(frozen=True)
class Effort:
    """When a case has been repeated enough: the interval is narrow, or the time or the number is used up.

    `relative_error` is half the interval's width over the median. `sample_s` is the shortest time one sample should
    take: faster operations are repeated inside one sample, so that reading the clock does not count.
    """

    relative_error: float = 0.01
    time_limit_s: float = 2.0
    fewest: int = 10
    most: int = 1000
    sample_s: float = 0.002
    warmup: int = 2


QUICK = Effort(relative_error=0.05, time_limit_s=0.12, fewest=7, most=200, sample_s=0.0005, warmup=1)


@cache
def median_ranks(n: int, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """Zero-based ranks (low, high) of the order statistics of `n` samples that enclose the median; None if none do.

    Distribution-free: the number of samples below the median is binomial(n, 1/2), so the symmetric pair (k, n-1-k)
    encloses it with probability 1 - 2 P(X <= k). The largest k that keeps the confidence is taken.
    """
    tail, best = 0.0, None
    for k in range(n // 2):
        tail += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        if 1 - 2 * tail < confidence:
            break
        best = k
    return None if best is None else (best, n - 1 - best)


def median_interval(samples: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Median of `samples` and its distribution-free 95 % interval; the interval is None below six samples."""
    if not samples:
        raise ValueError("no samples to take a median of")
    ordered = sorted(samples)
    ranks = median_ranks(len(ordered))
    if ranks is None:
        return statistics.median(ordered), None, None
    return statistics.median(ordered), ordered[ranks[0]], ordered[ranks[1]]


def narrow_enough(samples: Sequence[float], relative_error: float) -> bool:
    """True when the interval's half width is within `relative_error` of the median."""
    median, low, high = median_interval(samples)
    return low is not None and high is not None and median > 0 and (high - low) / 2 <= relative_error * median


def two_modes(samples: Sequence[float], factor: float = 1.5) -> bool:
    """True where samples fall into two heaps: a gap of `factor` with at least a tenth, and two, on each side of it.

    The median then says which heap is larger, not how long the operation takes, however narrow its interval is.
    """
    ordered = sorted(samples)
    few = max(2, math.ceil(len(ordered) / 10))
    gaps = range(few, len(ordered) - few + 1)
    return any(ordered[i - 1] > 0 and ordered[i] >= factor * ordered[i - 1] for i in gaps)


def no_plateau(work: Sequence[float], seconds: Sequence[float]) -> str | None:
    """Why the fastest of these is no peak, or None. `work` grows; `seconds` are the medians, both of two at least.

    Where time does not grow with work, something else than the work is timed (dispatch, a start-up) and a larger size
    would reach more. Asked of the two largest sizes: time must grow at least half as fast as work.
    """
    if len(work) < 2:
        return "one size alone cannot show that time grows with work"
    more, longer = work[-1] / work[-2], seconds[-1] / seconds[-2]
    if longer >= more / 2:
        return None
    return f"time does not grow with work: {more:.3g} times the work took {longer:.3g} times as long; no peak"


def repeat(sample: Callable[[], float], effort: Effort) -> list[float]:
    """Call `sample` (returns seconds, or any positive number) until `effort` is satisfied; every value it gave.

    The interval is looked at only when the number of samples has grown by half: looking after every sample would
    stop at a lucky moment too often.
    """
    for _ in range(effort.warmup):
        sample()
    samples: list[float] = []
    look = effort.fewest
    end = time.perf_counter() + effort.time_limit_s
    while len(samples) < effort.most:
        samples.append(sample())
        if time.perf_counter() >= end and len(samples) >= min(effort.fewest, FEWEST_FOR_RATIO):
            break
        if len(samples) >= look:
            if narrow_enough(samples, effort.relative_error) and not two_modes(samples):
                break
            look = math.ceil(look * 1.5)
        # A single very slow sample must not hold a job for ever: three times the limit ends it, with what there is.
        if time.perf_counter() >= end + 2 * effort.time_limit_s:
            break
    return samples


def timed(operation: Callable[[int], object], effort: Effort) -> list[float]:
    """Seconds of one `operation(i)`, sampled; i counts calls, so that inputs can rotate past the caches.

    Operations shorter than `effort.sample_s` are called several times inside a sample and the mean is the sample.
    """
    clock = time.perf_counter
    operation(0)
    start = clock()
    operation(1)
    inner = max(1, math.ceil(effort.sample_s / max(clock() - start, 1e-9)))
    calls = 2

    def sample() -> float:
        nonlocal calls
        first = calls
        calls += inner
        begin = clock()
        for i in range(first, first + inner):
            operation(i)
        return (clock() - begin) / inner

    return repeat(sample, effort)

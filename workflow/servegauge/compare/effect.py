"""One effect: how many times as large a statistic is on one side as on the other.

Assumption: the launch is the unit. The logarithm of a launch's statistic (paired: of the ratio inside a repeat) is
drawn from one normal distribution, independently of every other launch (repeat). Unpaired sides may differ in variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servegauge.compare.power import repeats_to_decide
from servegauge.compare.student import Estimate, combined, estimate
from servegauge.compare.verdicts import UNDECIDED, word

FEWEST_FOR_VERDICT = 3
FEWEST_FOR_EXACT = 6
MOST_FOR_EXACT = 36  # 2^(36 / 2) sums of each half
ONE_REPEAT = "1 repeat: how much launches differ is not known, so there is no interval and no verdict"

Numbers = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Effect:
    """A ratio and what follows from it. None where it is not defined; `warnings` say why, and what to doubt.

    `p` is of "no difference", `p_equal` of "a difference of the margin or more". `verdict` is before any correction for
    other comparisons, None where none is allowed. `p_exact`: sign-flip test, paired, from 6 pairs. `deviation`: between
    launches of one side, of the logarithm. `repeats_needed`: how many in all would decide what is undecided.
    """

    ratio: float | None
    low: float | None
    high: float | None
    p: float | None
    p_equal: float | None
    pairs: int
    verdict: str | None
    repeats_needed: int | None = None
    warnings: tuple[str, ...] = ()
    p_exact: float | None = None
    deviation: float | None = None
    estimate: Estimate | None = None


def paired_effect(
    base: Numbers, other: Numbers, margin: float = 0.02, confidence: float = 0.95, more_is_better: bool = False
) -> Effect:
    """Of `other` over `base`: one statistic per launch, shape (R,), whose r-th values belong to the same repeat."""
    base, other = _side(base), _side(other)
    if base.shape != other.shape:
        raise ValueError(f"pairs have two sides, found {len(base)} and {len(other)} values: use unpaired_effect")
    if unusable := _unusable(base, other):
        return without_interval(len(base), unusable)
    differences = np.log(other) - np.log(base)
    pairs = len(differences)
    if pairs < 2:
        return without_interval(pairs, ONE_REPEAT, math.exp(differences[0]))
    found = estimate(differences)
    exact = sign_flip(differences) if FEWEST_FOR_EXACT <= pairs <= MOST_FOR_EXACT else None
    deviation = found.error * math.sqrt(pairs / 2)  # of a difference / sqrt(2)
    return of_estimate(found, pairs, deviation, margin, confidence, more_is_better, exact)


def unpaired_effect(
    base: Numbers, other: Numbers, margin: float = 0.02, confidence: float = 0.95, more_is_better: bool = False
) -> Effect:
    """Of `other` over `base`, whose launches, shapes (R,) and (S,), have nothing to do with each other: Welch on logs.

    `pairs` is the number of launches of the smaller side.
    """
    base, other = _side(base), _side(other)
    fewest = min(len(base), len(other))
    if unusable := _unusable(base, other):
        return without_interval(fewest, unusable)
    logs = np.log(base), np.log(other)
    if fewest < 2:
        return without_interval(fewest, ONE_REPEAT, math.exp(logs[1].mean() - logs[0].mean()))
    sides = [estimate(side) for side in logs]
    found = combined(sides, (-1.0, 1.0))
    deviation = math.sqrt(math.fsum(side.error**2 * len(log) for side, log in zip(sides, logs, strict=True)) / 2)
    return of_estimate(found, fewest, deviation, margin, confidence, more_is_better)


def sign_flip(differences: Numbers) -> float:
    """Exact two-sided p value of "each difference is as likely its own negative", shape (n,) with n <= 36.

    All 2^n sums of +-difference are counted without being listed: each is one sum of either half.
    """
    magnitudes = np.abs(np.asarray(differences, dtype=float))
    if len(magnitudes) > MOST_FOR_EXACT:
        raise ValueError(f"{len(magnitudes)} differences: their sign flips are counted up to {MOST_FOR_EXACT}")
    observed = abs(math.fsum(differences))
    halves = []
    for part in (magnitudes[: len(magnitudes) // 2], magnitudes[len(magnitudes) // 2 :]):
        sums = np.zeros(1)
        for one in part:
            sums = np.concatenate([sums - one, sums + one])
        halves.append(np.sort(sums))
    bound = observed - 1e-9 * max(observed, float(magnitudes.sum()))  # sums that are the same but for rounding
    left, right = halves
    above = len(right) * len(left) - int(np.searchsorted(right, bound - left, side="left").sum())
    return min(1.0, 2 * above / 2 ** len(magnitudes))  # symmetric: as many are at or below the negative


def _side(values: Numbers) -> np.ndarray:
    side = np.asarray(values, dtype=float)
    if side.ndim != 1:
        raise ValueError(f"a side is one number per launch, found an array of shape {side.shape}")
    return side


def _unusable(base: np.ndarray, other: np.ndarray) -> str | None:
    """Why these numbers have no ratio; None where they have."""
    if not len(base) or not len(other):
        return "a side has no launch"
    for side, name in ((base, "the baseline"), (other, "the other side")):
        if infinite := int(np.isposinf(side).sum()):
            return f"{infinite} of {len(side)} launches of {name} have no finite value: too many requests failed"
        if bad := int((~(side > 0)).sum()):
            return f"{bad} of {len(side)} launches of {name} have a value that is not above 0"
    return None


def without_interval(pairs: int, why: str, ratio: float | None = None) -> Effect:
    """What is left where launches are too few or have no ratio, with the reason."""
    return Effect(ratio, None, None, None, None, pairs, None, None, (why,))


def of_estimate(
    found: Estimate,
    pairs: int,
    deviation: float,
    margin: float,
    confidence: float = 0.95,
    more_is_better: bool = False,
    exact: float | None = None,
) -> Effect:
    """The effect that an estimate of the logarithm stands for; `exact`: p value of the sign-flip test."""
    ratio, alpha = math.exp(found.mean), 1 - confidence
    low, high = found.interval(confidence)
    p, p_equal = found.p_difference(), found.p_equal(margin)
    warnings = []
    verdict = needed = None
    if pairs < FEWEST_FOR_VERDICT:
        warnings.append(f"{pairs} repeats give an interval, a verdict takes {FEWEST_FOR_VERDICT}")
    else:
        verdict = word(p, p_equal, ratio, alpha, more_is_better)
        if verdict == UNDECIDED:
            needed = repeats_to_decide(deviation, ratio, margin, alpha=alpha)
    if found.error == 0:
        warnings.append("every repeat gave the same ratio: the statistic may be a setting rather than a measurement")
    if exact is not None and (exact < alpha) != (p < alpha):
        warnings.append(f"the exact sign-flip test gives p = {exact:.2g}, the t test {p:.2g}: look at single launches")
    return Effect(ratio, low, high, p, p_equal, pairs, verdict, needed, tuple(warnings), exact, deviation, found)

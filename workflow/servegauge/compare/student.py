"""Student's t: from a mean, its standard error and its degrees of freedom to an interval and to p values.

Assumption: (estimate - truth) / standard error follows Student's t with the given degrees of freedom. scipy.special has
the distribution; nothing else is loaded, because a summary in the terminal asks for it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

ROUNDING = 1e-12
"""Logarithms closer than this are the same number: floating point writes 1.05 x in more than one way."""


@dataclass(frozen=True)
class Estimate:
    """A mean of logarithms, its standard error and degrees of freedom. Error 0: every value was the same."""

    mean: float
    error: float
    degrees: float

    def half_width(self, confidence: float) -> float:
        """Half of the interval that holds the truth with probability `confidence`, never below rounding."""
        quantile = float(stdtrit(self.degrees, 0.5 + confidence / 2))
        return max(quantile * self.error, ROUNDING)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Both ends as ratios, exp(mean -+ half width)."""
        half = self.half_width(confidence)
        return math.exp(self.mean - half), math.exp(self.mean + half)

    def p_difference(self) -> float:
        """Two-sided p value of "the ratio is 1"."""
        if self.error == 0:
            return 1.0 if abs(self.mean) <= ROUNDING else 0.0
        return float(2 * stdtr(self.degrees, -abs(self.mean) / self.error))

    def p_equal(self, margin: float) -> float:
        """p value of "the ratio is 1 + margin or more, or 1 / (1 + margin) or less": two one-sided tests (TOST)."""
        distance = math.log1p(margin) - abs(self.mean)
        if self.error == 0:
            return 0.0 if distance > ROUNDING else 1.0
        return float(stdtr(self.degrees, -distance / self.error))


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Of the mean of independent logarithms, shape (n,) with n >= 2: t with n - 1 degrees of freedom."""
    values = np.asarray(values, dtype=float)
    spread = float(values.std(ddof=1))
    if spread <= ROUNDING * max(1.0, float(np.abs(values).max())):
        spread = 0.0
    return Estimate(float(values.mean()), spread / math.sqrt(len(values)), len(values) - 1)


def combined(parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The weighted sum of independent estimates, with Satterthwaite's degrees of freedom."""
    variances = [(weight * part.error) ** 2 for part, weight in zip(parts, weights, strict=True)]
    total = math.fsum(variances)
    mean = math.fsum(weight * part.mean for part, weight in zip(parts, weights, strict=True))
    below = math.fsum(variance**2 / part.degrees for part, variance in zip(parts, variances, strict=True))
    # Without any spread every number of degrees gives the same answer.
    degrees = total**2 / below if below > 0 else min(part.degrees for part in parts)
    return Estimate(mean, math.sqrt(total), degrees)

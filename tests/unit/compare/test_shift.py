"""The shift function: ratios by quantile, and a band that holds all of them at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from servegauge.compare.shift import SHARES, shift_function


def quantiles(rng, launches: int, truth: float = 1.0) -> np.ndarray:
    """Quantiles of 60 requests of each launch: noise of requests, and a launch's own luck."""
    values = np.exp(rng.normal(0, 0.15, (launches, 60)) + rng.normal(0, 0.02, (launches, 1))) * truth
    return np.quantile(values, SHARES, axis=1).T


def test_ratios_are_geometric_means_by_quantile():
    base = np.array([[1.0, 2.0], [2.0, 4.0], [1.0, 2.0]])
    found = shift_function(base, base * [1.1, 1.2], shares=(0.5, 0.9))
    assert [one.ratio for one in found] == pytest.approx([1.1, 1.2])
    assert [one.share for one in found] == [0.5, 0.9]


@pytest.mark.parametrize("paired", [True, False])
def test_the_band_holds_every_quantile_at_once(paired):
    rng = np.random.default_rng(5)
    whole = 0
    for _ in range(600):
        band = shift_function(quantiles(rng, 4), quantiles(rng, 4, 1.05), paired=paired)
        whole += all(one.low <= 1.05 <= one.high for one in band)
    assert whole / 600 >= 0.93


def test_two_launches_have_ratios_and_no_band():
    rng = np.random.default_rng(6)
    assert all(one.ratio and one.low is None for one in shift_function(quantiles(rng, 2), quantiles(rng, 2)))


def test_a_quantile_that_failed_requests_hide_is_null_and_the_others_stand():
    rng = np.random.default_rng(7)
    base, other = quantiles(rng, 3), quantiles(rng, 3)
    other[1, -1] = math.inf
    found = shift_function(base, other)
    assert (found[-1].ratio, found[-1].low) == (None, None)
    assert all(one.low is not None for one in found[:-1])


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="one column per share"):
        shift_function(np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match="found 3 and 4"):
        shift_function(np.ones((3, 1)), np.ones((4, 1)), shares=(0.5,))

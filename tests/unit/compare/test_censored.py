"""Quantiles with failed requests: they are longer than everything."""

from __future__ import annotations

import math

import numpy as np
import pytest

from servegauge.compare.censored import quantile


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("count", [1, 2, 7, 100, 101])
def test_without_failures_it_is_numpys(share, count):
    values = np.sort(np.random.default_rng(count).lognormal(size=count))
    assert quantile(values, 0, share) == pytest.approx(np.quantile(values, share))


def test_failed_requests_count():
    values = np.arange(1.0, 100.0)  # 99 answered
    assert quantile(values, 2, 0.5) == 51.0  # of 101
    assert quantile(values, 1, 0.99) == math.inf  # between the 99th and a failed one
    assert quantile(values, 0, 0.99) < 99
    assert quantile(values, 100, 0.5) == math.inf
    assert quantile(np.array([1.0, 2.0, 3.0]), 2, 0.5) == 3.0  # exactly at the last answer


def test_nothing_has_no_quantile():
    assert quantile(np.empty(0), 0, 0.5) is None
    assert quantile(np.empty(0), 3, 0.5) == math.inf

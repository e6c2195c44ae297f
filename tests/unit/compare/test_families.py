"""Adjusted p values: by hand, against scipy, and what they are for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from servegauge.compare.families import benjamini_hochberg, holm


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == pytest.approx([0.02])
    assert holm([]).shape == (0,)


def test_benjamini_hochberg_is_scipys():
    p = np.random.default_rng(1).uniform(size=50) ** 3
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p))
    assert benjamini_hochberg([]).shape == (0,)


def test_holm_keeps_any_false_claim_at_the_level():
    rng = np.random.default_rng(2)
    uniform = rng.uniform(size=(4000, 36))
    false = np.mean([(holm(row) < 0.05).any() for row in uniform])
    assert 0.035 <= false <= 0.06


def test_what_is_not_a_p_value_is_an_error():
    for wrong in ([0.1, float("nan")], [1.5], [-0.1]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(wrong)
    with pytest.raises(ValueError, match="a list"):
        benjamini_hochberg([[0.1]])

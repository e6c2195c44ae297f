"""Repeats that it takes: the table of docs/statistics.md, and simulated studies that do what was promised."""

from __future__ import annotations

import math

import numpy as np
import pytest

from servegauge.compare.effect import paired_effect
from servegauge.compare.power import (
    detectable_difference,
    plan_text,
    power_to_equal,
    power_to_see,
    repeats_needed,
    repeats_to_decide,
    repeats_to_equal,
    usual_half_width,
)
from servegauge.compare.verdicts import EQUAL, SLOWER


@pytest.mark.parametrize(
    ("deviation", "see_2", "see_5", "equal_2", "equal_5"),
    [(0.01, 7, 3, 6, 3), (0.02, 19, 5, 19, 5), (0.03, 38, 9, 41, 9), (0.05, 103, 19, 111, 20), (0.0, 3, 3, 3, 3)],
)
def test_the_table(deviation, see_2, see_5, equal_2, equal_5):
    assert (repeats_needed(deviation, 0.02), repeats_needed(deviation, 0.05)) == (see_2, see_5)
    assert (repeats_to_equal(deviation, 0.02), repeats_to_equal(deviation, 0.05)) == (equal_2, equal_5)


def test_power_is_what_simulated_studies_show():
    rng = np.random.default_rng(3)
    slower = equal = 0
    for _ in range(2000):
        base, other = np.exp(rng.normal(0, 0.02, (2, 6)))
        slower += paired_effect(base, 1.05 * other).verdict == SLOWER
        equal += paired_effect(base, other, margin=0.05).verdict == EQUAL
    # Equality and a difference within the margin may be seen at once, in about 1 of 20; then "but within" is said.
    assert slower / 2000 == pytest.approx(power_to_see(0.02, 0.05, 6), abs=0.03)
    assert equal / 2000 == pytest.approx(power_to_equal(0.02, 0.05, 6), abs=0.06)


def test_five_repeats_see_five_percent_at_one_percent():
    assert power_to_see(0.01, 0.05, 5) >= 0.9


def test_what_can_be_seen_is_what_it_takes_repeats_for():
    for repeats in (3, 5, 12):
        effect = detectable_difference(0.03, repeats)
        assert repeats_needed(0.03, effect * 1.001) == repeats
        assert power_to_see(0.03, effect, repeats) == pytest.approx(0.8, abs=1e-6)
    assert detectable_difference(0.03, 1) is None
    assert usual_half_width(0.03, 3) == pytest.approx(0.111, abs=0.001)
    assert usual_half_width(0.03, 1) is None


def test_a_gain_and_a_loss_of_the_same_ratio_take_the_same():
    assert repeats_needed(0.02, 1 / 1.05 - 1) == repeats_needed(0.02, 0.05)
    with pytest.raises(ValueError, match=r"0\.05 or -0\.05"):
        repeats_needed(0.02, 0)


def test_nothing_takes_forever():
    assert repeats_needed(5.0, 0.0001, most=1000) is None
    assert repeats_to_equal(0.01, 0.02, effect=0.02) is None
    assert power_to_see(1e-9, 0.05, 3) == 1.0
    assert math.isfinite(repeats_to_decide(10.0, 1.0, 0.001))


@pytest.mark.parametrize("deviation", [0.005, 0.01, 0.02, 0.03, 0.05, 0.1])
def test_the_quick_count_of_repeats_is_the_exact_one(deviation):
    exact = max(repeats_needed(deviation, 0.02), repeats_to_equal(deviation, 0.02))
    assert abs(repeats_to_decide(deviation, 1.0, 0.02) - exact) <= 1
    assert abs(repeats_to_decide(deviation, 1 / 1.08, 0.02) - repeats_needed(deviation, 0.08)) <= 1


def test_a_plan_says_what_it_can_see_by_measured_scatter():
    known = {"ttft_p50": (0.02, 4), "tpot_p50": (0.01, 4)}
    said = plan_text(5, known, effect=0.05, titles={"ttft_p50": "TTFT p50"})
    assert "TTFT p50: launches differ by 2 % (measured, 4 launches a configuration); 5 repeats see" in said
    assert "a difference of 2 % takes 19 repeats, a difference of 5 % takes 5 repeats" in said
    assert "to state equality within 2 % 19 repeats" in said
    assert "to see 5 % in all of them, set matrix.repeat to 5" in said
    assert "demonstration" not in said


def test_a_plan_of_nothing_measured_says_that_it_assumes():
    said = plan_text(3, {})
    assert "every metric: launches differ by 3 % (assumed: nothing was repeated yet); 3 repeats see 15 %" in said
    assert "differences under about 11 % will mostly stay undecided" in said


def test_a_plan_below_three_repeats_calls_itself_a_demonstration():
    said = plan_text(2, {})
    assert "a demonstration: repeat is 2" in said
    assert "undecided" not in said

"""Means over conditions: what launches share is not counted twice."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from servegauge.compare.effect import paired_effect, unpaired_effect
from servegauge.compare.overall import Block, Side, overall_effect


def side(logs, repeats=None) -> Side:
    return Side(range(len(logs)) if repeats is None else repeats, logs)


def test_one_condition_is_its_own_mean():
    rng = np.random.default_rng(1)
    base, other = rng.normal(0, 0.02, (2, 5))
    alone = paired_effect(np.exp(base), np.exp(other))
    over = overall_effect([Block([side(base)], [side(other)])])
    assert (over.ratio, over.low, over.high, over.p) == pytest.approx((alone.ratio, alone.low, alone.high, alone.p))
    welch = unpaired_effect(np.exp(base), np.exp(other[:4]))
    over = overall_effect([Block([side(base)], [side(other[:4])], paired=False)])
    assert (over.ratio, over.low, over.high, over.p) == pytest.approx((welch.ratio, welch.low, welch.high, welch.p))


def test_conditions_of_one_launch_are_one_observation():
    """Twenty copies of the same luck say no more than one."""
    rng = np.random.default_rng(2)
    base, other = rng.normal(0, 0.02, (2, 4))
    once = overall_effect([Block([side(base)], [side(other)])])
    often = overall_effect([Block([side(base)] * 20, [side(other)] * 20)])
    assert (often.low, often.high, often.pairs) == (pytest.approx(once.low), pytest.approx(once.high), 4)


def test_launches_that_are_not_shared_add_up_by_satterthwaite():
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.05, 0.01, 4), rng.normal(0.02, 0.03, 6)
    zero = [side(np.zeros(4))], [side(np.zeros(6))]
    over = overall_effect([Block(zero[0], [side(first)]), Block(zero[1], [side(second)])])
    # The sum of two independent means is Welch's test with one of them turned around.
    welch = stats.ttest_ind(first, -second, equal_var=False)
    assert math.log(over.ratio) == pytest.approx((first.mean() + second.mean()) / 2)
    assert over.p == pytest.approx(welch.pvalue)


def test_conditions_weigh_the_same_whoever_served_them():
    zero = side(np.zeros(3))
    one, four = side(np.array([0.1, 0.101, 0.099])), side(np.array([0.0, 0.001, -0.001]))
    over = overall_effect([Block([zero], [one]), Block([zero] * 4, [four] * 4)])
    assert math.log(over.ratio) == pytest.approx(0.02)


def test_a_repeat_that_a_condition_lacks_is_left_out_and_said():
    zero = side(np.zeros(5))
    whole = side([0.02, 0.021, 0.019, 0.02, 0.9])
    part = side([0.04, 0.041, 0.039, 0.04], repeats=[0, 1, 2, 3])
    over = overall_effect([Block([zero, zero], [whole, part])])
    assert math.log(over.ratio) == pytest.approx(0.03)
    assert over.pairs == 4
    assert over.warnings == ("1 repeat was left out because not every condition has it",)


def test_without_two_common_repeats_there_is_no_mean():
    over = overall_effect([Block([side([0.0])], [side([0.1])])])
    assert (over.ratio, over.verdict) == (None, None)


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_intervals_over_blocks_of_unequal_spread_hold_the_truth(repeats):
    rng = np.random.default_rng(repeats)
    covered = 0
    for _ in range(1500):
        blocks = []
        for spread in (0.005, 0.01, 0.02, 0.02, 0.03, 0.05):
            launches = rng.normal(0, spread, (2, repeats))
            noise = rng.normal(0, 0.003, (2, 2, repeats))
            base, other = launches[0] + noise[0], launches[1] + math.log(1.05) + noise[1]
            blocks.append(Block([side(one) for one in base], [side(one) for one in other]))
        found = overall_effect(blocks)
        covered += found.low <= 1.05 <= found.high
    assert 0.93 <= covered / 1500 <= 0.975

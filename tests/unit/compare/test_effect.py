"""One effect: by hand, against scipy.stats, and at its edges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from servegauge.compare.effect import Effect, paired_effect, sign_flip, unpaired_effect
from servegauge.compare.verdicts import EQUAL, FASTER, SLOWER, SLOWER_WITHIN, UNDECIDED, VERDICTS

RNG = np.random.default_rng(20261126)


def drawn(repeats: int, truth: float = 1.0, deviation: float = 0.02) -> tuple[np.ndarray, np.ndarray]:
    return (
        0.05 * np.exp(RNG.normal(0, deviation, repeats)),
        0.05 * truth * np.exp(RNG.normal(0, deviation, repeats)),
    )


def test_a_pair_by_hand():
    found = paired_effect([1.0, 2.0, 4.0], [1.1, 2.1, 4.6])
    logs = np.log([1.1, 1.05, 1.15])
    half = 4.302652729911275 * logs.std(ddof=1) / math.sqrt(3)
    assert found.ratio == pytest.approx(math.exp(logs.mean()))
    assert (found.low, found.high) == (
        pytest.approx(math.exp(logs.mean() - half)),
        pytest.approx(math.exp(logs.mean() + half)),
    )
    assert found.pairs == 3
    assert found.deviation == pytest.approx(logs.std(ddof=1) / math.sqrt(2))


@pytest.mark.parametrize("repeats", [2, 3, 5, 17])
def test_pairs_agree_with_scipy(repeats):
    base, other = drawn(repeats, 1.03)
    expected = stats.ttest_rel(np.log(other), np.log(base))
    found = paired_effect(base, other, confidence=0.9)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.9)
    assert (math.log(found.low), math.log(found.high)) == (pytest.approx(interval.low), pytest.approx(interval.high))
    edge = math.log(1.02)
    differences = np.log(other / base)
    above = stats.ttest_1samp(differences, edge, alternative="less").pvalue
    below = stats.ttest_1samp(differences, -edge, alternative="greater").pvalue
    assert found.p_equal == pytest.approx(max(above, below))


def test_unpaired_sides_agree_with_welch():
    base, other = drawn(4, deviation=0.01)[0], drawn(9, 1.05, 0.05)[1]
    expected = stats.ttest_ind(np.log(other), np.log(base), equal_var=False)
    found = unpaired_effect(base, other)
    interval = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert (math.log(found.low), math.log(found.high)) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.pairs == 4


def test_verdicts_and_their_direction():
    noise = np.exp([0.001, -0.001, 0.0005, -0.0004, 0.0])
    one = np.ones(5)
    assert paired_effect(one, 1.06 * noise).verdict == SLOWER
    assert paired_effect(one, 0.94 * noise).verdict == FASTER
    assert paired_effect(one, 0.94 * noise, more_is_better=True).verdict == SLOWER
    assert paired_effect(one, 1.01 * noise).verdict == SLOWER_WITHIN
    assert paired_effect(one, noise).verdict == EQUAL
    wide = paired_effect(one, np.exp([0.05, -0.04, 0.03, -0.05, 0.02]))
    assert wide.verdict == UNDECIDED
    assert wide.repeats_needed > 5
    assert {paired_effect(*drawn(3, 1.02)).verdict for _ in range(50)} <= set(VERDICTS)


def test_a_wider_margin_makes_more_things_equal():
    noise = np.exp([0.001, -0.001, 0.0005, -0.0004, 0.0])
    assert paired_effect(np.ones(5), 1.03 * noise, margin=0.05).verdict == SLOWER_WITHIN
    assert paired_effect(np.ones(5), 1.03 * noise, margin=0.02).verdict == SLOWER


def test_one_repeat_has_no_interval_and_two_have_no_verdict():
    for effect in (paired_effect, unpaired_effect):
        one, two = effect([1.0], [2.0]), effect([1.0, 1.1], [2.0, 2.1])
        assert one == Effect(2.0, None, None, None, None, 1, None, None, one.warnings)
        assert "1 repeat" in one.warnings[0]
        assert two.low < two.ratio < two.high
        assert two.verdict is None
        assert "a verdict takes 3" in two.warnings[0]


def test_no_spread_at_all_is_said():
    found = paired_effect([0.1, 0.2, 0.3], [0.105, 0.21, 0.315])
    assert found.low <= 1.05 <= found.high
    assert found.high - found.low < 1e-9
    assert (found.verdict, found.p) == (SLOWER, 0.0)
    assert any("every repeat gave the same ratio" in one for one in found.warnings)
    same = paired_effect([2.0] * 3, [2.0] * 3)
    assert (same.verdict, same.p, same.p_equal) == (EQUAL, 1.0, 0.0)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ([1.0, math.inf, 1.0], "1 of 3 launches of the other side have no finite value"),
        ([1.0, 0.0, -1.0], "2 of 3 launches of the other side have a value that is not above 0"),
        ([1.0, math.nan, 1.0], "1 of 3 launches of the other side have a value that is not above 0"),
    ],
)
def test_what_has_no_logarithm_has_no_ratio(other, said):
    found = paired_effect([1.0, 1.0, 1.0], other)
    assert (found.ratio, found.p, found.verdict) == (None, None, None)
    assert said in found.warnings[0]


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="found 2 and 3 values: use unpaired_effect"):
        paired_effect([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="one number per launch"):
        paired_effect([[1, 2]], [[1, 2]])


@pytest.mark.parametrize("count", [1, 2, 6, 9])
def test_sign_flips_are_counted_as_if_listed(count):
    for scale in (0.0, 1.0, 3.0):
        values = RNG.normal(scale, 1, count)
        sums = [abs(math.fsum(s * v for s, v in zip(signs, values, strict=True))) for signs in flips(count)]
        expected = np.mean([one >= abs(math.fsum(values)) * (1 - 1e-9) for one in sums])
        assert sign_flip(values) == pytest.approx(expected)


def flips(count: int):
    return itertools.product((-1, 1), repeat=count)


def test_sign_flips_stand_beside_six_pairs_and_not_beside_five():
    base, other = drawn(6, 1.2)
    assert paired_effect(base, other).p_exact == pytest.approx(2 / 64)
    assert paired_effect(base[:5], other[:5]).p_exact is None
    with pytest.raises(ValueError, match="up to 36"):
        sign_flip(np.ones(37))


def test_an_outlier_that_only_one_of_the_tests_sees_is_said():
    found = paired_effect(np.ones(7), np.exp([0.01, 0.012, 0.011, 0.009, 0.013, 0.010, 0.3]))
    assert found.p > 0.05
    assert any("exact sign-flip test gives p = 0.016" in one for one in found.warnings)


@pytest.mark.parametrize("repeats", [3, 5, 10])
@pytest.mark.parametrize("truth", [1.0, 1.05])
def test_intervals_hold_the_truth_as_often_as_they_say(repeats, truth):
    """2000 draws, sides that differ in spread: 95 % +- 3 standard errors."""
    covered = dict.fromkeys((paired_effect, unpaired_effect), 0)
    for _ in range(2000):
        base, other = drawn(repeats, deviation=0.02)[0], drawn(repeats, truth, 0.04)[1]
        for effect in covered:
            found = effect(base, other)
            covered[effect] += found.low <= truth <= found.high
    for count in covered.values():
        assert 0.935 <= count / 2000 <= 0.975


def test_equality_is_wrongly_said_at_the_margin_in_one_of_twenty():
    said = sum(paired_effect(*drawn(5, 1.02, 0.001)).verdict in (EQUAL, SLOWER_WITHIN) for _ in range(2000))
    assert 0.03 <= said / 2000 <= 0.065

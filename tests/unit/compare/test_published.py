"""Published figures against measured ones: pairs by Welch's test, verdicts wrong as seldom as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind_from_stats

from servegauge.compare.published import (
    DIFFERS,
    NOT_JUDGED,
    REPRODUCED,
    UNDECIDED,
    Figure,
    exactly,
    outcome,
    pair,
)

EXACT = Figure.of(100.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [((404.6, 0.629, 10), (399.9, 1.26, 10)), ((1818, 0.87, 5), (1817, 0.96, 7)), ((10, 3, 4), (12, 1, 30))],
)
def test_a_pair_is_told_apart_by_welchs_test(one: tuple, other: tuple) -> None:
    told = pair(Figure.of(*one), Figure.of(*other))
    assert told.p == pytest.approx(ttest_ind_from_stats(*one, *other, equal_var=False).pvalue, rel=1e-9)
    assert ("cannot be distinguished" in told.words) == (told.p > 0.05)


@pytest.mark.parametrize(
    ("one", "other"),
    [((404.6, 0.629), (399.9, 1.26)), ((1818, 0.87), (1817, 0.96)), ((158.02, 0.309), (157.45, 0.362))],
)
def test_without_n_it_says_from_how_many_values_on(one: tuple, other: tuple) -> None:
    told = pair(Figure.of(*one), Figure.of(*other))
    assert (told.p, told.needed is not None) == (None, True)

    def p(n: int) -> float:
        return float(ttest_ind_from_stats(*one, n, *other, n, equal_var=False).pvalue)

    assert p(told.needed) < 0.05 <= p(told.needed - 1) or told.needed == 2
    assert f"from {told.needed} values a side on" in told.words


def test_a_pair_that_never_can_be_told_apart_or_has_no_deviation_says_so() -> None:
    assert "not up to 1000" in pair(Figure.of(10.0, 5.0), Figure.of(10.01, 5.0)).words
    assert pair(Figure.of(5.4), Figure.of(1.9)).p is None
    assert "scatter is not published" in pair(Figure.of(5.4), Figure.of(1.9)).words


def logs(*values: float) -> list[float]:
    return [math.log(value) for value in values]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((101, 102, 100.5, 101.5), REPRODUCED),
        ((130, 131, 129, 130.5), DIFFERS),
        ((60, 61, 60.5, 59), DIFFERS),
        ((80, 130, 100, 150), UNDECIDED),
        ((107, 111, 109, 113), UNDECIDED),  # beyond the tolerance or not
        ((101, 101.5), NOT_JUDGED),
        ((101,), NOT_JUDGED),
    ],
)
def test_verdicts(values: tuple, verdict: str) -> None:
    found = outcome(logs(*values), EXACT, 0.1)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(math.exp(np.mean(logs(*values))) / 100 - 1)
    if len(values) > 1:
        assert found.low < found.difference < found.high


def test_a_range_is_reproduced_inside_it_and_left_by_more_than_the_tolerance() -> None:
    between = Figure.of([2, 3])
    assert outcome(logs(2.4, 2.5, 2.6, 2.5), between, 0.1).verdict == REPRODUCED
    assert outcome(logs(2.05, 2.0, 2.1, 2.02), between, 0.1).verdict == REPRODUCED
    assert outcome(logs(1.5, 1.52, 1.49, 1.51), between, 0.1).verdict == DIFFERS
    assert outcome(logs(4.0, 4.1, 3.9, 4.0), between, 0.1).verdict == DIFFERS
    assert outcome(logs(1.2, 4.5, 2.5, 3.5), between, 0.1).verdict == UNDECIDED
    above = outcome(logs(4.0, 4.1, 3.9, 4.0), between, 0.1)
    assert above.difference == pytest.approx(1 / 3, abs=0.001), "from the nearer end"
    assert above.low < 1 / 3 < above.high
    assert outcome(logs(1.5), between, 0.1).difference == pytest.approx(-0.25)
    assert exactly(3.3, between, 0.2).difference == pytest.approx(0.1)


def test_what_the_publication_does_not_know_itself_makes_a_verdict_harder() -> None:
    values = logs(115, 115.5, 114.5, 115.2)
    assert outcome(values, Figure.of(100.0, 1.0, 10), 0.1).verdict == DIFFERS
    assert outcome(values, Figure.of(100.0, 30.0, 4), 0.1).verdict == UNDECIDED
    both = Figure.of(115.0, 30.0, 4).over(Figure.of(100.0, 30.0, 4))
    assert (both.middle, both.error is None) == (pytest.approx(1.15), False)
    assert outcome([0.0, 0.001, -0.001], both, 0.1).verdict == UNDECIDED


def test_a_computed_number_has_no_scatter() -> None:
    assert exactly(512 * 1024, Figure.of(800e3), 0.05).verdict == DIFFERS
    assert exactly(320 * 1024, Figure.of(320e3), 0.05).verdict == REPRODUCED


@pytest.mark.parametrize(("factor", "never"), [(1.0, DIFFERS), (1.12, REPRODUCED), (1 / 1.12, REPRODUCED)])
def test_verdicts_are_wrong_in_at_most_one_of_twenty_studies(factor: float, never: str) -> None:
    rng = np.random.default_rng(7)
    studies = 2000
    spread = 0.08
    drawn = math.log(100 * factor) + rng.normal(0, spread, (studies, 5))
    wrong = sum(outcome(list(one), EXACT, 0.1).verdict == never for one in drawn)
    assert wrong / studies <= 0.06

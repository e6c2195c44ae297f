"""What a study may claim, held against thousands of simulated studies that go through `compare()`.

Here few of each, so that the suite stays quick; the whole grid of docs/statistics.md is `test_claims_grid.py` and
`test_stopped_grid.py` (`make test-heavy`), and `python benchmarks/claims/run.py`.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from servegauge.compare.compare import compare
from servegauge.compare.verdicts import FASTER, FASTER_WITHIN, NOT_COMPARABLE
from tests.simulated_studies import Setting, judge, losing, stop

SEED = 20261126
FEW, MANY = 120, 1000
GRID = [Setting(repeats, deviation) for repeats in (3, 5, 10) for deviation in (0.0, 0.01, 0.03, 0.05)]
HARD = [
    Setting(repeats, 0.03, 1.05, **how)
    for repeats in (3, 5, 10)
    for how in (
        {"unequal": True},
        {"distinct": True},
        {"distinct": True, "unequal": True},
        {"paired": False},
        {"paired": False, "unequal": True},
    )
]


def check_coverage(setting: Setting, studies: int) -> None:
    """93 to 97 % of intervals hold the truth, cell by cell and over conditions; two standard errors for the count.

    Cells of one launch share its luck, so the count that the error rests on is of launches: studies x metrics.
    """
    found = judge(setting, studies, SEED)
    slack = 2 * math.sqrt(0.95 * 0.05 / studies)
    for coverage in (found.coverage, found.coverage_overall):
        assert 0.93 - slack <= coverage <= 0.97 + slack, setting.words()


def check_nothing_is_found(setting: Setting, studies: int) -> None:
    """A/A: any coloured cell of 36, or any primary ratio, in at most 5 % of studies, and two standard errors."""
    found = judge(setting, studies, SEED)
    most = 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)
    assert found.coloured_cell / studies <= most
    assert found.coloured_overall / studies <= most


@pytest.mark.parametrize("setting", [Setting(3, 0.03, 1.05), Setting(5, 0.0, 1.0), HARD[2]], ids=Setting.words)
def test_intervals_hold_the_truth(setting):
    check_coverage(setting, FEW)


@pytest.mark.parametrize("setting", [Setting(3, 0.03), Setting(3, 0.03, unequal=True, paired=False)], ids=Setting.words)
def test_the_same_platform_under_two_names_shows_nothing(setting):
    check_nothing_is_found(setting, FEW)


def test_five_percent_are_seen_with_five_repeats_of_one_percent():
    assert judge(Setting(5, 0.01, 1.05), FEW, SEED).seen_overall / FEW >= 0.9


@pytest.mark.parametrize("setting", [Setting(3, 0.001, 1.02), Setting(10, 0.003, 1.02)], ids=Setting.words)
def test_equality_is_rarely_said_of_a_difference_as_large_as_the_margin(setting):
    found = judge(setting, FEW, SEED)
    assert found.equal_cells / found.cells <= 0.05
    assert found.equal_cell / FEW <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / FEW)


def check_stopped(setting: Setting, metrics: int, studies: int) -> None:
    """Stopping on precision: 93 % of the intervals hold the truth, and two standard errors for the count of studies."""
    found = stop(setting, 0.02, 12, metrics, studies, SEED)
    assert found.coverage >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / studies)


def test_intervals_hold_the_truth_where_they_said_when_to_stop():
    check_stopped(Setting(3, 0.015, 1.05), 1, 60)


@pytest.mark.parametrize(("share", "slowest"), [(0.2, False), (0.01, True), (0.2, True)])
def test_a_platform_that_fails_requests_is_never_better(share, slowest):
    rng = np.random.default_rng(SEED)
    for _ in range(30):
        comparison = compare(losing(rng, Setting(5, 0.003, 0.98), share, slowest))
        assert comparison
        latencies = [one for one in (*comparison.ratios, *comparison.overall) if one.metric.family]
        assert {one.verdict for one in latencies} == {NOT_COMPARABLE}
        assert not any(one.verdict in (FASTER, FASTER_WITHIN) for one in comparison.ratios)


def test_a_few_failures_leave_latencies_comparable_and_count_in_their_p99():
    """0.25 % of requests, the slowest, fail: with them the p99 is what it was, without it would be better."""
    rng = np.random.default_rng(SEED)
    logs = []
    for _ in range(30):
        comparison = compare(losing(rng, Setting(5, 0.003), 0.0025, True))
        assert comparison
        logs += [math.log(one.ratio) for one in comparison.of("ttft_p99")]
        assert NOT_COMPARABLE not in {one.verdict for one in comparison.of("ttft_p99")}
    assert abs(float(np.mean(logs))) < 0.01

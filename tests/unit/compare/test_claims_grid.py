"""What a study may claim: the whole grid of docs/statistics.md."""

from __future__ import annotations

import pytest

from tests.simulated_studies import Setting, judge
from tests.unit.compare.test_claims import FEW, GRID, HARD, MANY, SEED, check_coverage, check_nothing_is_found

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


@pytest.mark.parametrize("setting", [*GRID, *HARD], ids=Setting.words)
def test_intervals_hold_the_truth(setting):
    check_coverage(setting, MANY)


@pytest.mark.parametrize("repeats", [3, 5, 10])
def test_whether_an_interval_holds_the_truth_does_not_depend_on_the_truth(repeats):
    """So the grid needs one truth: the same draws, moved by a factor, are covered as often."""
    same, more = (judge(Setting(repeats, 0.03, truth), FEW, SEED) for truth in (1.0, 1.05))
    assert (same.cells_covered, same.overall_covered) == (more.cells_covered, more.overall_covered)
    assert same.cells_covered < same.cells


@pytest.mark.parametrize("setting", [one for one in GRID if one.deviation], ids=Setting.words)
def test_nothing_is_found_where_nothing_is(setting):
    check_nothing_is_found(setting, MANY)

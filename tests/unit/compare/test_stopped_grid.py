"""What a study may claim that stopped where it was precise enough; a file of its own, for a process of its own."""

from __future__ import annotations

import pytest

from tests.simulated_studies import Setting
from tests.unit.compare.test_claims import MANY, check_stopped

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]


@pytest.mark.parametrize("metrics", [1, 3])
@pytest.mark.parametrize("deviation", [0.005, 0.01, 0.02, 0.03])
def test_intervals_hold_the_truth_where_they_said_when_to_stop(deviation, metrics):
    check_stopped(Setting(3, deviation, 1.05), metrics, MANY)

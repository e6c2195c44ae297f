"""The order of a block: every level in every place, and after every other, equally often."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from servegauge.plan.order import positions, williams


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5, 6, 7])
def test_places_and_neighbours_are_balanced(levels: int) -> None:
    rows = williams(levels)
    assert all(sorted(row) == list(range(levels)) for row in rows)
    places = Counter((place, level) for row in rows for place, level in enumerate(row))
    assert len(places) == levels**2
    assert len(set(places.values())) == 1
    after = Counter(pair for row in rows for pair in itertools.pairwise(row))
    assert len(after) == levels * (levels - 1)
    assert len(set(after.values())) <= 1


def test_two_levels_take_turns() -> None:
    assert [positions(2, repeat) for repeat in (1, 2, 3, 4)] == [[0, 1], [1, 0], [0, 1], [1, 0]]

"""In which order the levels of a block run, so that no level owes its numbers to its place.

Two levels take turns: AB, BA, AB, ... More than two follow a Williams square: over its rows each level stands in each
place equally often, and after each other level equally often, so that what one leaves behind (heat, caches) meets all.
"""

from __future__ import annotations


def positions(levels: int, repeat: int) -> list[int]:
    """Which level stands first, second, ... in this repeat, counted from 1."""
    rows = williams(levels)
    return rows[(repeat - 1) % len(rows)]


def williams(levels: int) -> list[list[int]]:
    """Rows of a Williams design: `levels` rows where that is even, twice as many where it is odd."""
    first = [0]
    for step in range(1, levels):
        first.append((step + 1) // 2 if step % 2 else levels - step // 2)
    rows = [[(level + shift) % levels for level in first] for shift in range(levels)]
    return rows if levels % 2 == 0 or levels == 1 else rows + [row[::-1] for row in rows]

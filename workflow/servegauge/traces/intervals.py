"""Unions of many intervals at once, in numpy; exact in int64 nanoseconds."""

from __future__ import annotations

import numpy as np


def group_sum(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Sums of int64 `values` (n,) by `group` (n,), as (groups,); exact, where bincount's weights are floats."""
    sums = np.zeros(groups, dtype=np.int64)
    np.add.at(sums, group, values)
    return sums


def unions(group: np.ndarray, start: np.ndarray, end: np.ndarray, groups: int) -> np.ndarray:
    """Length of the union of the intervals of each group, int64 (groups,); an interval that ends early counts 0."""
    lengths = np.zeros(groups, dtype=np.int64)
    if not len(start):
        return lengths
    # Captures are sorted by start: then a stable sort by group alone does, and often there is nothing to sort.
    order: np.ndarray | slice
    if (start[1:] < start[:-1]).any():
        order = np.lexsort((start, group))
    else:
        order = np.argsort(group, kind="stable") if (group[1:] < group[:-1]).any() else slice(None)
    group, start, end = group[order], start[order], np.maximum(end[order], start[order])
    zero, stride = int(start.min()), int(end.max()) - int(start.min()) + 1
    if groups > np.iinfo(np.int64).max // (2 * stride):
        raise ValueError(f"{groups} groups over {stride} ns are too many for int64")
    # Each group gets a stretch of time of its own, so that one running maximum serves all of them.
    offset = group.astype(np.int64) * stride - zero
    begins, reach = start + offset, np.maximum.accumulate(end + offset)
    before = np.concatenate(([np.iinfo(np.int64).min], reach[:-1]))
    return group_sum(group, reach - np.maximum(np.minimum(before, reach), begins), groups)


def merge(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The union of the intervals as disjoint ones: starts, ends, and the row that begins each one.

    Intervals that touch are one.
    """
    if not len(start):
        empty = np.empty(0, dtype=np.int64)
        return empty, empty, empty
    order = np.argsort(start, kind="stable") if (start[1:] < start[:-1]).any() else np.arange(len(start))
    begins, reach = start[order], np.maximum.accumulate(end[order])
    first = np.concatenate(([True], begins[1:] > reach[:-1]))
    last = np.concatenate((first[1:], [True]))
    return begins[first], reach[last], order[first]


class Cover:
    """The union of intervals, asked for how much of other intervals it covers."""

    def __init__(self, start: np.ndarray, end: np.ndarray) -> None:
        self.start, self.end, _ = merge(start, end)
        self._before = np.concatenate(([0], np.cumsum(self.end - self.start)))

    def _until(self, time: np.ndarray) -> np.ndarray:
        """Covered length before each time."""
        if not len(self.start):
            return np.zeros(len(time), dtype=np.int64)
        index = np.searchsorted(self.start, time, side="right") - 1
        inside = np.minimum(time, self.end[np.maximum(index, 0)]) - self.start[np.maximum(index, 0)]
        return np.where(index < 0, 0, self._before[np.maximum(index, 0)] + inside)

    def covered(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """How much of each interval [start, end) the union covers."""
        return self._until(np.maximum(end, start)) - self._until(start)

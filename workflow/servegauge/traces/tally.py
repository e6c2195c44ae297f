"""Counts, sums and quantiles of many values by key, without a row ever becoming a Python object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servegauge.traces.intervals import group_sum


@dataclass(frozen=True)
class Groups:
    """Rows grouped by several integer keys."""

    keys: np.ndarray  # int64 (groups, keys), sorted
    of: np.ndarray  # int64 (rows,), group of each row
    calls: np.ndarray  # int64 (groups,)

    def __len__(self) -> int:
        return len(self.keys)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return group_sum(self.of, values.astype(np.int64), len(self))

    def quantiles(self, values: np.ndarray, shares: Sequence[float]) -> list[np.ndarray]:
        """Quantiles of each group, interpolated between neighbours and rounded to int64; no group is empty."""
        order = np.lexsort((values, self.of))
        ordered = values[order]
        begin = np.concatenate(([0], np.cumsum(self.calls)[:-1]))
        out = []
        for share in shares:
            at = begin + (self.calls - 1) * share
            low = np.floor(at).astype(np.int64)
            high = np.minimum(low + 1, begin + self.calls - 1)
            part = at - low
            out.append(np.rint(ordered[low] * (1 - part) + ordered[high] * part).astype(np.int64))
        return out

    def most_frequent(self, values: np.ndarray) -> np.ndarray:
        """The most frequent value of each group, the smallest of several."""
        pairs, counts = np.unique(np.column_stack([self.of, values]), axis=0, return_counts=True)
        order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
        _, first = np.unique(pairs[order, 0], return_index=True)
        return pairs[order][first, 1]


def groups(*keys: np.ndarray) -> Groups:
    """Rows grouped by equal `keys`, each int (rows,)."""
    spans = [(int(key.min()), int(key.max()) - int(key.min()) + 1) if len(key) else (0, 1) for key in keys]
    size = 1
    for _, span in spans:
        size *= span
    if size < np.iinfo(np.int64).max:
        # One number for all keys sorts many times faster than rows of several.
        code = np.zeros(len(keys[0]), dtype=np.int64)
        for key, (low, span) in zip(keys, spans, strict=True):
            code = code * span + (key.astype(np.int64) - low)
        unique, of, calls = np.unique(code, return_inverse=True, return_counts=True)
        columns = []
        for low, span in reversed(spans):
            columns.append(unique % span + low)
            unique = unique // span
        return Groups(np.column_stack(columns[::-1]), of.reshape(-1), calls)
    rows, of, calls = np.unique(np.column_stack(keys), axis=0, return_inverse=True, return_counts=True)
    return Groups(rows, of.reshape(-1), calls)

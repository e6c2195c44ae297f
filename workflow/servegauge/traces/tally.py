"""Counts, sums and quantiles of many values by key, without a row ever becoming a Python object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from servegauge.traces.intervals import group_sum

_COUNTED = 1 << 22


@dataclass(frozen=True)
class Groups:
    """Rows grouped by several integer keys."""

    keys: np.ndarray  # int64 (groups, keys), sorted
    of: np.ndarray  # int (rows,), group of each row
    calls: np.ndarray  # int64 (groups,)

    def __len__(self) -> int:
        return len(self.keys)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return group_sum(self.of, values.astype(np.int64), len(self))

    def quantiles(self, values: np.ndarray, shares: Sequence[float]) -> list[np.ndarray]:
        """Quantiles of each group, interpolated between neighbours and rounded to int64; no group is empty."""
        order = np.argsort(self.of, kind="stable")
        ordered = values[order]
        bounds = np.concatenate(([0], np.cumsum(self.calls)))
        out = [np.empty(len(self), dtype=np.int64) for _ in shares]
        for group in range(len(self)):
            own = ordered[bounds[group] : bounds[group + 1]]
            at = [(len(own) - 1) * share for share in shares]
            own.partition(sorted({whole for place in at for whole in (int(place), min(int(place) + 1, len(own) - 1))}))
            for found, place in zip(out, at, strict=True):
                low, part = int(place), place - int(place)
                found[group] = round(float(own[low] * (1 - part) + own[min(low + 1, len(own) - 1)] * part))
        return out

    def most_frequent(self, values: np.ndarray) -> np.ndarray:
        """The most frequent value of each group, the smallest of several."""
        pairs = groups(self.of, values)
        order = np.lexsort((pairs.keys[:, 1], -pairs.calls, pairs.keys[:, 0]))
        _, first = np.unique(pairs.keys[order, 0], return_index=True)
        return pairs.keys[order][first, 1]


def groups(*keys: np.ndarray) -> Groups:
    """Rows grouped by equal `keys`, each int (rows,)."""
    spans = [(int(key.min()), int(key.max()) - int(key.min()) + 1) if len(key) else (0, 1) for key in keys]
    size = math.prod(span for _, span in spans)
    if size > np.iinfo(np.int64).max // 2:
        rows, of, calls = np.unique(np.column_stack(keys), axis=0, return_inverse=True, return_counts=True)
        return Groups(rows, of.reshape(-1), calls)
    # One number for all keys; where there are few such numbers, counting finds the groups without sorting.
    code: np.ndarray = np.zeros(len(keys[0]), dtype=np.int32 if size < 1 << 31 else np.int64)
    for key, (low, span) in zip(keys, spans, strict=True):
        code *= code.dtype.type(span)
        code += (key - low).astype(code.dtype)
    if size <= max(_COUNTED, 4 * len(code)):
        counted = np.bincount(code, minlength=size)
        unique = np.nonzero(counted)[0]
        calls = counted[unique]
        index = np.zeros(size, dtype=np.int16 if len(unique) < 1 << 15 else np.int32)
        index[unique] = np.arange(len(unique))
        of = index[code]
    else:
        unique, of, calls = np.unique(code, return_inverse=True, return_counts=True)
    columns = []
    rest = unique.astype(np.int64)
    for low, span in reversed(spans):
        columns.append(rest % span + low)
        rest = rest // span
    return Groups(np.column_stack(columns[::-1]), of.reshape(-1), calls)

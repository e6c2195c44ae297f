"""p values of comparisons that are looked at together, adjusted for how many there are.

Assumption of `holm`: none beyond valid p values; the chance of any false claim in the family stays at the level.
Assumption of `benjamini_hochberg`: independent or positively dependent p values; the share of false claims does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p values in the order of `p_values`, shape (n,)."""
    values, order = _checked(p_values)
    count = len(values)
    stepped = np.maximum.accumulate((count - np.arange(count)) * values[order])
    return _back(np.minimum(stepped, 1.0), order)


def benjamini_hochberg(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusted p values in the order of `p_values`, shape (n,)."""
    values, order = _checked(p_values)
    count = len(values)
    scaled = values[order] * count / np.arange(1, count + 1)
    return _back(np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0), order)


def _checked(p_values: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(p_values, dtype=float)
    if values.ndim != 1:
        raise ValueError(f"p values are a list, found an array of shape {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p values lie between 0 and 1; leave out comparisons that have none")
    return values, np.argsort(values, kind="stable")


def _back(ordered: np.ndarray, order: np.ndarray) -> np.ndarray:
    adjusted = np.empty_like(ordered)
    adjusted[order] = ordered
    return adjusted

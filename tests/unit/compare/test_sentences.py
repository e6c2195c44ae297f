"""Intervals in words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from servegauge.compare.sentences import _range


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (1.04, 1.083, "+4.0 to +8.3 %"),
        (0.9, 1.2, "-10.0 to +20.0 %"),
        (0.004, 326.65, "too wide to say anything"),
        (0.4, 1.7, "too wide to say anything"),
    ],
)
def test_an_interval_that_says_nothing_is_not_quoted(low: float, high: float, text: str) -> None:
    one: Any = SimpleNamespace(low=low, high=high)
    assert _range(one) == text

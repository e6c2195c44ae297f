"""The levels of the compared factor as series, and the panels that figures are made of.

Series differ in colour, in marker and in line, so that they can be told apart without colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import axis_value, level_text
from servegauge.report.figure_style import MARKERS, SERIES

PANEL_IN = (3.1, 2.35)  # width, height of one panel, inches
COLUMNS = 3
MOST_PANELS = 12


class Series:
    """The levels of the compared factor: colour, marker and name of each."""

    def __init__(self, factor: str | None, levels: Sequence[Any]) -> None:
        self.factor, self.levels = factor, list(levels)
        self.keys = [canonical_json(level) for level in levels]

    def of(self, row: Mapping[str, Any]) -> int:
        return self.keys.index(canonical_json(axis_value(row, self.factor))) if self.factor else 0

    def colour(self, index: int) -> str:
        return SERIES[index % len(SERIES)]

    def marker(self, index: int) -> str:
        return MARKERS[index % len(MARKERS)]

    def name(self, index: int) -> str:
        return level_text(self.levels[index]) if self.factor else "all launches"

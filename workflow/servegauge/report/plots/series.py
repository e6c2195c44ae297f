"""The levels of the compared factor as series, and the panels that figures are made of.

Series differ in colour, in marker and in line, so that they can be distinguished without colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from servegauge.contract.columns import Row
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import axis_value, level_text
from servegauge.report.figure_style import MARKERS, SERIES

PANEL_IN = (3.1, 2.35)  # width, height of one panel, inches
COLUMNS = 3
MOST_PANELS = 12
T = TypeVar("T")


def first_panels(panels: Sequence[T], what: str, where: str) -> tuple[Sequence[T], str]:
    """The panels that a figure has room for, and the sentence that its caption says of the others; empty: all fit."""
    rest = len(panels) - MOST_PANELS
    sentence = f" Only the first {MOST_PANELS} {what} are shown; {rest} more: {where}." if rest > 0 else ""
    return panels[:MOST_PANELS], sentence


def grid(
    titles: Sequence[str],
    width: float = PANEL_IN[0],
    height: float = PANEL_IN[1],
    above: float = 0.3,
    columns: int = COLUMNS,
    x: str = "",
    y: str = "",
    loc: Literal["left", "center"] = "center",
) -> tuple[Canvas, list[Axes]]:
    """A canvas with a panel of this size in inches for each title, in up to `columns` columns, with room `above` them.

    `x` and `y` label their axes, `y` those of the first column.
    """
    across = min(columns, len(titles))
    down = -(-len(titles) // across)
    canvas = Canvas(figsize=(width * across, height * down + above), layout="constrained")
    panels = [canvas.add_subplot(down, across, number + 1) for number in range(len(titles))]
    for number, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        axes.set_title(title, loc=loc)
        axes.set_xlabel(x)
        axes.set_ylabel("" if number % across else y)
    return canvas, panels


class Series:
    """The levels of the compared factor: colour, marker and name of each."""

    def __init__(self, factor: str | None, levels: Sequence[Any]) -> None:
        self.factor, self.levels = factor, list(levels)
        self.keys = [canonical_json(level) for level in levels]

    def of(self, row: Row) -> int:
        return self.keys.index(canonical_json(axis_value(row, self.factor))) if self.factor else 0

    def colour(self, index: int) -> str:
        return SERIES[index % len(SERIES)]

    def marker(self, index: int) -> str:
        return MARKERS[index % len(MARKERS)]

    def name(self, index: int) -> str:
        return level_text(self.levels[index]) if self.factor else "all launches"

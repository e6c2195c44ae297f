"""Empirical distribution functions of a latency."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from servegauge.dataset.study_view import Study, label
from servegauge.report.figure_style import Drawn, finish, legend, nothing
from servegauge.report.plots.series import COLUMNS, MOST_PANELS, PANEL_IN, Series

POINTS = 120  # of one distribution


def distributions(name: str, title: str, family: str, study: Study, series: Series) -> Drawn:
    """Empirical distribution functions, one panel per condition, one line per launch."""
    panels: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for one in study.loads:
        if one[f"{family}_p50_s"] is not None:
            panels[label({axis: value for axis, value in one["axes"].items() if axis != series.factor})].append(one)
    if not panels:
        return nothing(name, title, "no cell was measured")
    shown = list(panels.items())[:MOST_PANELS]
    rows_of_panels = math.ceil(len(shown) / COLUMNS)
    across = min(COLUMNS, len(shown))
    canvas = Canvas(figsize=(PANEL_IN[0] * across, PANEL_IN[1] * rows_of_panels + 0.3), layout="constrained")
    for number, (condition, rows) in enumerate(shown):
        axes = canvas.add_subplot(rows_of_panels, across, number + 1)
        named: set[int] = set()
        for row in sorted(rows, key=series.of):
            index = series.of(row)
            ordered = study.samples(row, [family])[family] * 1e3
            shares = np.linspace(0, 1, min(POINTS, len(ordered)))
            axes.plot(
                np.quantile(ordered, shares),
                shares,
                color=series.colour(index),
                linestyle=("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (1, 1)))[index % 4],
                linewidth=1.2,
                label=None if index in named else series.name(index),
            )
            named.add(index)
        axes.set_title(condition)
        axes.set_ylim(0, 1.01)
        axes.set_xlabel("ms")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        low, high = axes.get_xlim()
        if low > 0 and high / max(low, 1e-9) > 30:
            axes.set_xscale("log")
        if number % COLUMNS == 0:
            axes.set_ylabel("share of requests")
        if number == 0:
            legend(canvas, axes, len(series.levels))
    caption = "Share of the answered requests at or below each latency; one line per launch."
    if len(panels) > len(shown):
        caption += f" {len(panels) - len(shown)} more conditions are not shown."
    return finish(canvas, name, title, caption)

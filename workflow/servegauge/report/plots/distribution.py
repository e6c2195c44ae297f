"""Empirical distribution functions of a latency."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from matplotlib.ticker import MaxNLocator

from servegauge.contract.columns import Row
from servegauge.dataset.study_view import label, without
from servegauge.report.figure import Figure, Material
from servegauge.report.figure_style import Drawn, PlainNumbers, finish, legend, nothing
from servegauge.report.plots.series import first_panels, grid

POINTS = 120  # of one distribution


def distributions(material: Material, figure: Figure) -> Drawn:
    """Empirical distribution functions, one panel per condition, one line per launch."""
    study, series, family = material.study, material.series, figure.name.removeprefix("distribution-")
    conditions: dict[str, list[Row]] = defaultdict(list)
    for one in study.loads:
        if one[f"{family}_p50_s"] is not None:
            conditions[label(without(one, series.factor))].append(one)
    if not conditions:
        return nothing(figure.name, figure.title, "no cell was measured")
    shown, rest = first_panels(list(conditions.items()), "conditions", "quantiles in cells.parquet")
    canvas, panels = grid([condition for condition, _ in shown], x="ms", y="share of requests")
    for (_, rows), axes in zip(shown, panels, strict=True):
        named: set[int] = set()
        for row in sorted(rows, key=series.of):
            index = series.of(row)
            ordered = study.samples(row, family) * 1e3
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
        axes.set_ylim(0, 1.01)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        low, high = axes.get_xlim()
        if low > 0 and high / max(low, 1e-9) > 30:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(PlainNumbers())
            axes.xaxis.set_minor_formatter(PlainNumbers())
    legend(canvas, panels[0], len(series.levels))
    caption = "Share of the answered requests at or below each latency; one line per launch."
    return finish(canvas, figure.name, figure.title, caption + rest)

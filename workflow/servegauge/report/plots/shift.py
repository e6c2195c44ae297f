"""The shift function: the ratio at each quantile, with its simultaneous band."""

from __future__ import annotations

from matplotlib.ticker import FixedLocator, MaxNLocator

from servegauge.compare.results import Comparison
from servegauge.compare.shifts import same_load, shift_of
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import level_text
from servegauge.report.figure_style import MUTED, Drawn, finish, nothing
from servegauge.report.plots.series import COLUMNS, PANEL_IN, Series, first_panels, grid


def shifts(name: str, title: str, family: str, comparison: Comparison | None, series: Series) -> Drawn:
    """The ratio at each quantile with its simultaneous band, one panel per condition."""
    sides = [cells for cells in comparison.sides if same_load(cells)] if comparison else []
    shown, rest = first_panels(sides, "conditions", "ratios of quantiles in comparison.csv")
    found = [(cells, shift) for cells in shown if comparison and (shift := shift_of(comparison.study, cells, family))]
    if not comparison or not found:
        return nothing(name, title, "no condition was measured on both sides under the same load")
    canvas, panels = grid(len(found), *PANEL_IN)
    for number, ((cells, shift), axes) in enumerate(zip(found, panels, strict=True)):
        index = series.keys.index(canonical_json(cells.level))
        ratios = [(100 * one.share, one.ratio) for one in shift if one.ratio is not None]
        band = [
            (100 * one.share, one.low, one.high)
            for one in shift
            if one.ratio is not None and one.low is not None and one.high is not None
        ]
        axes.axhline(1, color=MUTED, linewidth=1)
        axes.fill_between(
            [share for share, _, _ in band],
            [low for _, low, _ in band],
            [high for _, _, high in band],
            color=series.colour(index),
            alpha=0.2,
            linewidth=0,
        )
        axes.plot([share for share, _ in ratios], [ratio for _, ratio in ratios], color=series.colour(index),
                  marker=series.marker(index), markersize=3.5, linewidth=1.2)  # fmt: skip
        level = f", {series.name(index)}" if len(comparison.levels) > 2 else ""
        axes.set_title(f"{comparison.label(cells.key)}{level}")
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_locator(FixedLocator([10, 30, 50, 70, 90]))
        axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
        axes.set_xlabel("per cent of requests")
        if number % COLUMNS == 0:
            axes.set_ylabel(f"ratio to {level_text(comparison.baseline)}")
    caption = (
        "The ratio at each quantile, with a band that holds all of them at once with 95 % over launches; no band below "
        "three launches a side. A level line says that everything became slower alike, a rising one that the tail did."
    )
    return finish(canvas, name, title, caption + rest)

"""The shift function: the ratio at each quantile, with its simultaneous band."""

from __future__ import annotations

from matplotlib.ticker import FixedLocator, MaxNLocator

from servegauge.compare.shifts import same_load, shift_of
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import level_text
from servegauge.report.figure import Figure, Material
from servegauge.report.figure_style import MUTED, Drawn, finish, nothing
from servegauge.report.plots.series import first_panels, grid


def shifts(material: Material, figure: Figure) -> Drawn:
    """The ratio at each quantile with its simultaneous band, one panel per condition."""
    comparison, series, family = material.comparison, material.series, figure.name.removeprefix("shift-")
    sides = [cells for cells in comparison.sides if same_load(cells)] if comparison else []
    shown, rest = first_panels(sides, "conditions", "ratios of quantiles in comparison.csv")
    found = [(cells, shift) for cells in shown if comparison and (shift := shift_of(comparison.study, cells, family))]
    if not comparison or not found:
        return nothing(figure.name, figure.title, "no condition was measured on both sides under the same load")
    indices = [series.keys.index(canonical_json(cells.level)) for cells, _ in found]
    titles = [comparison.label(cells.key) for cells, _ in found]
    if len(comparison.levels) > 2:
        titles = [f"{title}, {series.name(index)}" for title, index in zip(titles, indices, strict=True)]
    canvas, panels = grid(titles, x="per cent of requests", y=f"ratio to {level_text(comparison.baseline)}")
    for (_, shift), index, axes in zip(found, indices, panels, strict=True):
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
        axes.set_xlim(0, 100)
        axes.xaxis.set_major_locator(FixedLocator([10, 30, 50, 70, 90]))
        axes.yaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))
    caption = (
        "The ratio at each quantile, with a band that holds all of them at once with 95 % over launches; no band below "
        "three launches a side. A level line says that everything became slower alike, a rising one that the tail did."
    )
    return finish(canvas, figure.name, figure.title, caption + rest)

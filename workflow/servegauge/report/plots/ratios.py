"""Ratios to the baseline: a panel per metric, a row per condition, coloured by verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from servegauge.compare.results import Comparison, Ratio
from servegauge.compare.verdicts import COLOURS
from servegauge.contract.metric import CARD
from servegauge.dataset.study_view import level_text
from servegauge.report.figure import Figure, Material
from servegauge.report.figure_style import BETTER, MUTED, SAME, WORSE, Drawn, finish, legend, nothing
from servegauge.report.plots.series import Series

VERDICT_COLOURS = {"worse": WORSE, "better": BETTER, "same": SAME}
MOST_CONDITIONS = 30  # rows of the figure


def ratios(material: Material, figure: Figure) -> Drawn:
    """Ratios of the headline metrics; the conditions that differ most, where there are many."""
    comparison, series = material.comparison, material.series
    if not comparison or not comparison.ratios:
        return nothing(figure.name, figure.title, "nothing is compared: no condition was measured on both sides")
    wanted = [one.name for one in comparison.study.shown(CARD) if not one.slo and comparison.of(one.name)]
    far = {
        key: max((abs(math.log(one.ratio)) for one in comparison.of(wanted[0], key) if one.ratio), default=0.0)
        for key in comparison.conditions
    }
    shown = [key for key in comparison.conditions if any(comparison.of(name, key) for name in wanted)]
    dropped = len(shown) - MOST_CONDITIONS
    if dropped > 0:
        most = set(sorted(shown, key=lambda key: -far[key])[:MOST_CONDITIONS])
        shown = [key for key in shown if key in most]
    limits = _ratio_limits([one for name in wanted for key in shown for one in comparison.of(name, key)])
    height = 0.9 + 0.27 * max(1, len(comparison.levels) - 1) * len(shown)
    canvas = Canvas(figsize=(1.6 * len(wanted) + 1.8, height), layout="constrained")
    for column, wanted_one in enumerate(wanted):
        axes = canvas.add_subplot(1, len(wanted), column + 1)
        _ratio_panel(axes, comparison, series, wanted_one, shown)
        if limits[1] / limits[0] > 4:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=7))
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(limits)
        axes.set_yticks(
            range(len(shown)), [comparison.label(key) for key in shown] if column == 0 else [""] * len(shown)
        )
        axes.tick_params(axis="y", length=0)
        if column == 0:
            legend(canvas, axes, 6)
    canvas.supxlabel(f"ratio to {level_text(comparison.baseline)}", fontsize=9)
    caption = (
        f"Each metric on {' and '.join(map(level_text, comparison.levels[1:]))} divided by the same on "
        f"{level_text(comparison.baseline)}, with its 95 % interval over launches. "
        "Colours follow verdicts alone, grey: none. "
        "On the line at 1 there is no difference; right of it a latency is longer, a throughput higher. "
        "An open marker: too few requests for this quantile."
        + (" Grey bands: the interval of the baseline against itself (A/A)." if comparison.again else "")
    )
    if dropped > 0:
        caption += (
            f" The {MOST_CONDITIONS} conditions that differ most are shown; {dropped} more are in comparison.csv."
        )
    return finish(canvas, figure.name, figure.title, caption)


def _ratio_panel(axes: Axes, comparison: Comparison, series: Series, name: str, shown: Sequence[str]) -> None:
    others = comparison.levels[1:]
    axes.axvline(1, color=MUTED, linewidth=1)
    for row, key in enumerate(shown):  # the baseline against itself
        for one in comparison.again.of(name, key) if comparison.again else ():
            if one.low is not None and one.high is not None:
                axes.fill_betweenx([row - 0.45, row + 0.45], one.low, one.high, color=MUTED, alpha=0.18, linewidth=0)
    for index, level in enumerate(others, start=1):
        offset = (index - (len(others) + 1) / 2) * 0.6 / len(others)
        drawn = False
        for row, key in enumerate(shown):
            for one in comparison.of(name, key, level):
                if not one.ratio:
                    continue
                y = row + offset
                colour = VERDICT_COLOURS.get(COLOURS.get(one.verdict, ""), MUTED)
                if one.low is not None and one.high is not None:
                    axes.plot([one.low, one.high], [y, y], color=colour, linewidth=2, solid_capstyle="butt")
                axes.plot(
                    one.ratio,
                    y,
                    linestyle="",
                    marker=series.marker(index),
                    markersize=5.5,
                    color=colour,
                    markerfacecolor=colour if one.supported else "none",
                    label=None if drawn else series.name(index),
                )
                drawn = True
    metric = next(one.metric for one in comparison.of(name))
    axes.set_title(metric.title + (" ↑" if metric.more_is_better else ""))
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=2))


def _ratio_limits(ratios: Iterable[Ratio]) -> tuple[float, float]:
    """One scale for all metrics, so that they can be compared by eye; the farthest intervals may be cut.

    Where a sample carries its quantile, those that do not have no say: a p99 of 60 requests would squeeze the rest.
    """
    ends, known = [1.0], list(ratios)
    for one in [one for one in known if one.supported] or known:
        if one.ratio:
            ends += [one.ratio, min(one.high or 1, 2 * one.ratio), max(one.low or 1, one.ratio / 2)]
    margin = max(1.02, (max(ends) / min(ends)) ** 0.06)
    return min(ends) / margin, max(ends) * margin

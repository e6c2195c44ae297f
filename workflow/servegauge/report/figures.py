"""The report's figures: ratios to the baseline, metrics against load, distributions. svg.py says how they look.

Series differ in colour, in marker and in line, so that they can be told apart without colours.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from servegauge.compare.compare import Comparison, Ratio
from servegauge.compare.shifts import shift_of
from servegauge.compare.verdicts import COLOURS
from servegauge.contract.metric import CARD
from servegauge.contract.spec import canonical_json
from servegauge.dataset.study_view import Study, axis_value, label, level_text
from servegauge.report.figure_style import (
    BETTER,
    MARKERS,
    MUTED,
    SAME,
    SERIES,
    STYLE,
    WORSE,
    Figure,
    finish,
    legend,
    nothing,
)

VERDICT_COLOURS = {"worse": WORSE, "better": BETTER, "same": SAME}
PANEL_IN = (3.1, 2.35)  # width, height of one panel, inches
COLUMNS = 3
MOST_CONDITIONS = 30  # rows of the ratio figure
MOST_PANELS = 12
POINTS = 120  # of one distribution


def draw(study: Study, comparison: Comparison | None) -> list[Figure]:
    """Every figure of a study's report; each says in its place when there is nothing to plot."""
    factor, _ = study.factor()
    levels = comparison.levels if comparison else study.levels(factor) if factor else [None]
    series = _Series(factor, levels)
    with mpl.rc_context(STYLE):
        return [
            _ratios(comparison, series),
            _against_load(
                "ttft",
                "Time to first token against load",
                study,
                series,
                [("ttft_p50_s", "median"), ("ttft_p99_s", "p99")],
            ),
            _against_load(
                "tpot",
                "Time per output token against load",
                study,
                series,
                [("tpot_p50_s", "median"), ("tpot_p99_s", "p99")],
            ),
            _against_load(
                "throughput", "Throughput against load", study, series, [("output_tokens_per_s", "output tokens")]
            ),
            _shifts("ttft", "Where in the distribution the time to first token differs", comparison, series),
            _distributions("ttft", "Distribution of the time to first token", study, series),
            _distributions("tpot", "Distribution of the time per output token", study, series),
            _distributions("e2e", "Distribution of the end-to-end latency", study, series),
        ]


class _Series:
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


# -- ratios -------------------------------------------------------------------


def _ratios(comparison: Comparison | None, series: _Series) -> Figure:
    title = "Ratio to the baseline"
    if not comparison or not comparison.ratios:
        return nothing("ratios", title, "nothing is compared: no condition was measured on both sides")
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
    for column, name in enumerate(wanted):
        axes = canvas.add_subplot(1, len(wanted), column + 1)
        _ratio_panel(axes, comparison, series, name, shown)
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
        f"Each metric on {_words(series.name(index) for index in range(1, len(series.levels)))} divided by the same on "
        f"{level_text(comparison.baseline)}, with its 95 % interval over launches. "
        "Colours follow verdicts alone, grey: none. "
        "On the line at 1 there is no difference; right of it a latency is longer, a throughput higher. "
        "An open marker: the sample does not carry this quantile."
    )
    if dropped > 0:
        caption += (
            f" The {MOST_CONDITIONS} conditions that differ most are shown; {dropped} more are in comparison.csv."
        )
    return finish(canvas, "ratios", title, caption)


def _ratio_panel(axes: Axes, comparison: Comparison, series: _Series, name: str, shown: Sequence[str]) -> None:
    others = comparison.levels[1:]
    axes.axvline(1, color=MUTED, linewidth=1)
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
    """One scale for all metrics, so that they can be compared by eye; the farthest intervals may be cut."""
    ends = [1.0]
    for one in ratios:
        if one.ratio:
            ends += [one.ratio, min(one.high or 1, 2 * one.ratio), max(one.low or 1, one.ratio / 2)]
    margin = max(1.02, (max(ends) / min(ends)) ** 0.06)
    return min(ends) / margin, max(ends) * margin


def _words(names: Iterable[str]) -> str:
    return " and ".join(names)


# -- against load -------------------------------------------------------------


def _against_load(name: str, title: str, study: Study, series: _Series, columns: Sequence[tuple[str, str]]) -> Figure:
    """One panel per prompt set (and whatever else varies) and kind of load."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in study.ok:
        rest = {
            axis: value for axis, value in row["axes"].items() if axis not in ("rate", "concurrency", series.factor)
        }
        if any(row[column] is not None for column, _ in columns):
            groups[label(rest) if rest else ""]["concurrency" if row["rate_rps"] is None else "rate"].append(row)
    if not groups:
        return nothing(name, title, "no cell was measured")
    shown = list(groups.items())[:MOST_PANELS]
    kinds = [kind for kind in ("rate", "concurrency") if any(kind in by_kind for _, by_kind in shown)]
    # A kind of load that has one size needs little room.
    widths = [1.0 if len({_size(row) for _, one in shown for row in one.get(kind, ())}) > 1 else 0.45 for kind in kinds]
    across = min(len(shown), COLUMNS if len(kinds) == 1 else COLUMNS - 1)
    down = math.ceil(len(shown) / across)
    seconds = columns[0][0] != "output_tokens_per_s"
    canvas = Canvas(figsize=(PANEL_IN[0] * sum(widths) * across + 0.3, PANEL_IN[1] * down + 0.3), layout="constrained")
    grid = canvas.add_gridspec(down, across * len(kinds), width_ratios=widths * across)
    first: Axes | None = None
    for number, (rest, by_kind) in enumerate(shown):
        beside: Axes | None = None
        panels: list[Axes] = []
        for place, kind in enumerate(kinds):
            if kind not in by_kind:
                continue
            cell = grid[number // across, number % across * len(kinds) + place]
            axes = canvas.add_subplot(cell, sharey=beside if seconds else None)
            _load_panel(axes, by_kind[kind], series, columns, 1e3 if seconds else 1.0)
            axes.set_title(rest if beside is None else "", loc="left")
            axes.set_xlabel("requests/s" if kind == "rate" else "streams")
            if beside is None:
                axes.set_ylabel("ms" if seconds else "tokens/s")
            elif seconds:
                axes.tick_params(axis="y", labelleft=False)
            beside, first = axes, first or axes
            panels.append(axes)
        for together in [panels] if seconds else [[axes] for axes in panels]:
            _sensible_y(together)
    if first:
        legend(canvas, first, 2 * len(columns))
    what = {"ttft": "Time to first token", "tpot": "Time per output token", "throughput": "Output tokens per second"}[
        name
    ]
    caption = f"{what}: each dot is one launch, lines join the means over launches."
    if len(columns) > 1:
        caption += " Filled with a solid line: the median of the cell; open with a dashed line: its p99."
    if len(kinds) > 1:
        caption += " Open loop at an offered rate, then closed loop with a number of streams."
    if len(groups) > len(shown):
        caption += f" {len(groups) - len(shown)} more panels are not shown; their numbers are in cells.parquet."
    return finish(canvas, name, title, caption)


def _size(row: Mapping[str, Any]) -> float:
    """Where a cell stands on the axis of its kind of load: offered rate, or streams."""
    return row["rate_rps"] if row["concurrency"] is None else row["concurrency"]


def _load_panel(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    series: _Series,
    columns: Sequence[tuple[str, str]],
    scale: float,
) -> None:
    sizes = sorted({_size(row) for row in rows})
    spread = 0.12 * min((b - a for a, b in itertools.pairwise(sizes)), default=sizes[0])
    for index in range(len(series.levels)):
        mine = [row for row in rows if series.of(row) == index]
        shift = (index - (len(series.levels) - 1) / 2) * spread / max(1, len(series.levels) - 1)
        for order, (column, said) in enumerate(columns):
            values = {
                x: [row[column] * scale for row in mine if _size(row) == x and row[column] is not None] for x in sizes
            }
            values = {x: found for x, found in values.items() if found}
            face = series.colour(index) if order == 0 else "none"
            for x, found in values.items():
                axes.plot(
                    [x + shift] * len(found),
                    found,
                    linestyle="",
                    marker=series.marker(index),
                    markersize=4.5,
                    color=series.colour(index),
                    markerfacecolor=face,
                )
            axes.plot(
                [x + shift for x in values],
                [math.fsum(found) / len(found) for found in values.values()],
                color=series.colour(index),
                linestyle="-" if order == 0 else (0, (4, 2)),
                linewidth=1.6 if order == 0 else 1.1,
                marker=series.marker(index),
                markersize=4.5,
                markerfacecolor=face,
                label=f"{series.name(index)}, {said}" if len(columns) > 1 else series.name(index),
            )
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    if len(sizes) > 2 and sizes[-1] / sizes[0] > 8:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(sizes) == 1:
        axes.set_xlim(sizes[0] - 4 * spread, sizes[0] + 4 * spread)


def _sensible_y(panels: Sequence[Axes]) -> None:
    """From zero, so that lengths can be compared; logarithmic where values differ more than twenty-fold."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for axes in panels for line in axes.get_lines()])
    low, high = values.min(), values.max()
    if low > 0 and high / low > 20:
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        panels[0].set_ylim(0, high * 1.08 if high else 1)


# -- shift functions ---------------------------------------------------------


def _shifts(family: str, title: str, comparison: Comparison | None, series: _Series) -> Figure:
    """The ratio at each quantile with its simultaneous band, one panel per condition."""
    name = f"shift-{family}"
    found = []
    for cells in (comparison.sides if comparison else [])[:MOST_PANELS]:
        if shift := shift_of(comparison.study, cells, family):
            found.append((cells, [one for one in shift if one.ratio is not None]))
    if not comparison or not found:
        return nothing(name, title, "no condition was measured on both sides under the same load")
    across, down = min(COLUMNS, len(found)), math.ceil(len(found) / COLUMNS)
    canvas = Canvas(figsize=(PANEL_IN[0] * across, PANEL_IN[1] * down + 0.3), layout="constrained")
    for number, (cells, shift) in enumerate(found):
        axes = canvas.add_subplot(down, across, number + 1)
        index = series.keys.index(canonical_json(cells.level))
        shares = [100 * one.share for one in shift]
        banded = [one for one in shift if one.low is not None and one.high is not None]
        axes.axhline(1, color=MUTED, linewidth=1)
        axes.fill_between(
            [100 * one.share for one in banded],
            [one.low for one in banded],
            [one.high for one in banded],
            color=series.colour(index),
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(shares, [one.ratio for one in shift], color=series.colour(index), marker=series.marker(index),
                  markersize=3.5, linewidth=1.2)  # fmt: skip
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
    return finish(canvas, name, title, caption)


# -- distributions ------------------------------------------------------------


def _distributions(family: str, title: str, study: Study, series: _Series) -> Figure:
    """Empirical distribution functions, one panel per condition, one line per launch."""
    name = f"distribution-{family}"
    panels: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in study.ok:
        if row[f"{family}_p50_s"] is not None:
            panels[label({axis: value for axis, value in row["axes"].items() if axis != series.factor})].append(row)
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

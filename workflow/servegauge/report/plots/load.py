"""A metric against load: a panel per prompt set and kind of load, a dot per launch."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from servegauge.contract.columns import Row
from servegauge.dataset.study_view import label, without
from servegauge.report.capacity_section import capacity, capacity_words
from servegauge.report.figure import Figure, Material
from servegauge.report.figure_style import MUTED, Drawn, PlainNumbers, finish, legend, nothing
from servegauge.report.plots.series import COLUMNS, PANEL_IN, Series, first_panels

# figure -> in words, columns of CELLS with a word for each, what they are multiplied by, and the unit then
DRAWN: dict[str, tuple[str, Sequence[tuple[str, str]], float, str]] = {
    "ttft": ("Time to first token", [("ttft_p50_s", "median"), ("ttft_p99_s", "p99")], 1e3, "ms"),
    "tpot": ("Time per output token", [("tpot_p50_s", "median"), ("tpot_p99_s", "p99")], 1e3, "ms"),
    "throughput": ("Output tokens per second", [("output_tokens_per_s", "output tokens")], 1.0, "tokens/s"),
}


def against_load(material: Material, figure: Figure) -> Drawn:
    """One panel per prompt set (and whatever else varies) and kind of load, of the columns in DRAWN.

    Panels of latencies share their axis, so that lengths can be compared.
    """
    study, series = material.study, material.series
    what, columns, scale, unit = DRAWN[figure.name]
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in study.loads:
        others = without(row, *KINDS, "capacity", series.factor)
        if any(row[column] is not None for column, _ in columns):
            groups[label(others) if others else ""][kind_of(row)].append(row)
    if not groups:
        return nothing(figure.name, figure.title, "no cell was measured")
    shown, left_out = first_panels(list(groups.items()), "panels", "all numbers are in cells.parquet")
    kinds = [kind for kind in KINDS if any(kind in by_kind for _, by_kind in shown)]
    # A kind of load that has one size needs little room.
    widths = [
        1.0 if len({size_of(row) for _, one in shown for row in one.get(kind, ())}) > 1 else 0.45 for kind in kinds
    ]
    across = min(len(shown), COLUMNS if len(kinds) == 1 else COLUMNS - 1)
    down = math.ceil(len(shown) / across)
    seconds = unit == "ms"
    canvas = Canvas(figsize=(PANEL_IN[0] * sum(widths) * across + 0.3, PANEL_IN[1] * down + 0.3), layout="constrained")
    grid = canvas.add_gridspec(down, across * len(kinds), width_ratios=widths * across)
    first: Axes | None = None
    searched: dict[str, list[Row]] = defaultdict(list)
    for row in study.searches:
        others = without(row, *KINDS, "capacity", series.factor)
        searched[label(others) if others else ""].append(row)
    marked = False
    for number, (rest, by_kind) in enumerate(shown):
        beside: Axes | None = None
        panels: list[Axes] = []
        for place, kind in enumerate(kinds):
            if kind not in by_kind:
                continue
            cell = grid[number // across, number % across * len(kinds) + place]
            axes = canvas.add_subplot(cell, sharey=beside if seconds else None)
            _load_panel(axes, by_kind[kind], series, columns, scale)
            if kind == "rate":
                marked |= _mark_capacity(axes, by_kind[kind], searched.get(rest, ()), series)
            axes.set_title(rest if beside is None else "", loc="left")
            axes.set_xlabel(KINDS[kind][1])
            if beside is None:
                axes.set_ylabel(unit)
            elif seconds:
                axes.tick_params(axis="y", labelleft=False)
            beside, first = axes, first or axes
            panels.append(axes)
        for together in [panels] if seconds else [[axes] for axes in panels]:
            _sensible_y(together)
    if first:
        legend(canvas, first, 2 * len(columns))
    caption = f"{what}: each dot is one launch, lines join the means over launches."
    if len(columns) > 1:
        caption += " Filled with a solid line: the median of the cell; open with a dashed line: its p99."
    if marked:
        caption += f" Dotted: the capacity under {', '.join(dict.fromkeys(row['capacity'] for row in study.searches))}."
    if len(kinds) > 1:
        named = ", then ".join(KINDS[kind][2] for kind in kinds)
        caption += f" {named[0].upper()}{named[1:]}."
    return finish(canvas, figure.name, figure.title, caption + left_out)


REACH = 1.5  # times the largest rate: a capacity beyond would leave the loads no room

KINDS = {  # axis of a study -> column of CELLS, words for the axis of a figure and for its caption
    "rate": ("rate_rps", "requests/s", "open loop at an offered rate"),
    "concurrency": ("concurrency", "streams", "closed loop with a number of streams"),
    "burst": ("burst", "requests at once", "bursts of requests at once"),
}


def kind_of(row: Row) -> str:
    return next(kind for kind, (column, *_) in KINDS.items() if row[column] is not None)


def size_of(row: Row) -> float:
    """Where a cell stands on the axis of its kind of load."""
    return row[KINDS[kind_of(row)][0]]


def _load_panel(
    axes: Axes,
    rows: Sequence[Row],
    series: Series,
    columns: Sequence[tuple[str, str]],
    scale: float,
) -> None:
    sizes = sorted({size_of(row) for row in rows})
    spread = 0.12 * min((b - a for a, b in itertools.pairwise(sizes)), default=sizes[0])
    for index in range(len(series.levels)):
        mine = [row for row in rows if series.of(row) == index]
        shift = (index - (len(series.levels) - 1) / 2) * spread / max(1, len(series.levels) - 1)
        for order, (column, word) in enumerate(columns):
            values = {
                x: [row[column] * scale for row in mine if size_of(row) == x and row[column] is not None] for x in sizes
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
                label=f"{series.name(index)}, {word}" if len(columns) > 1 else series.name(index),
            )
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    if len(sizes) > 2 and sizes[-1] / sizes[0] > 8:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif len(sizes) == 1:
        axes.set_xlim(sizes[0] - 4 * spread, sizes[0] + 4 * spread)


def _mark_capacity(axes: Axes, rows: Sequence[Row], found: Sequence[Row], series: Series) -> bool:
    """A dotted line at each level's capacity, or a word where it lies beyond the panel; True where there is one."""
    largest = max(size_of(row) for row in rows)
    beyond = []
    slos = dict.fromkeys(row["capacity"] for row in found)
    several = len(slos) > 1
    for slo in slos:
        for index in range(len(series.levels)):
            mine = [row for row in found if row["capacity"] == slo and series.of(row) == index]
            if not mine:
                continue
            at, inside = capacity(mine), axes.get_xaxis_transform()
            if at is not None and at <= REACH * largest:
                axes.axvline(at, color=series.colour(index), linestyle=":", linewidth=1.6)
                if several:
                    axes.text(
                        at, 1, slo, transform=inside, rotation=90, ha="right", va="top", fontsize=7.5, color=MUTED
                    )
            else:
                beyond.append((f"{slo} {capacity_words(mine)} →", series.colour(index)))
    for line, (words, colour) in enumerate(beyond):
        axes.text(
            1.0, 0.02 + 0.09 * line, words, color=colour, transform=axes.transAxes, ha="right", va="bottom", size=7.5
        )
    return bool(found)


def _sensible_y(panels: Sequence[Axes]) -> None:
    """From zero, so that lengths can be compared; logarithmic where values differ more than twenty-fold."""
    lines = [line for axes in panels for line in axes.get_lines() if line.get_linestyle() != ":"]  # not the capacity's
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines])
    low, high = values.min(), values.max()
    if low > 0 and high / low > 20:
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[0].yaxis.set_minor_formatter(PlainNumbers())
    else:
        panels[0].set_ylim(0, high * 1.08 if high else 1)

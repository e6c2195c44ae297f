"""What users get against what a GPU gives: tokens/s/user and tokens/s/GPU of the same loads."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes

from servegauge.compare.student import estimate
from servegauge.contract.columns import Row
from servegauge.dataset.study_view import Study, label, without
from servegauge.report.figure import Figure, Material
from servegauge.report.figure_style import Drawn, finish, legend, nothing
from servegauge.report.plots.load import KINDS, kind_of, size_of
from servegauge.report.plots.series import PANEL_IN, Series, first_panels, grid

SIGNS = {"rate": "/s", "concurrency": "×", "burst": " at once"}


def pareto(material: Material, figure: Figure) -> Drawn:
    """One panel per condition without its load and layout: a point per load, with 95 % intervals over launches."""
    study, series = material.study, material.series
    gpus = _gpus(study)
    conditions: dict[str, dict[tuple[Any, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in study.loads:
        if not row["output_tokens_per_s"] or not row["tpot_p50_s"]:
            continue
        rest = without(row, *KINDS, *_LAYOUT, series.factor)
        line = (series.of(row), *(row["axes"].get(axis) for axis in _LAYOUT), kind_of(row))
        conditions[label(rest) if rest else ""][line].append(row)
    if not conditions:
        return nothing(figure.name, figure.title, "no cell has both a time per output token and a throughput")
    shown, left_out = first_panels(list(conditions.items()), "panels", "all numbers are in cells.parquet")
    of_gpus = any(gpus(row) for row in study.loads)
    titles, given = [rest for rest, _ in shown], "output tokens/s/GPU" if of_gpus else "output tokens/s"
    size = (1.25 * PANEL_IN[0], 1.1 * PANEL_IN[1], 0.4)
    canvas, panels = grid(titles, *size, x="output tokens/s/user", y=given, loc="left")
    for (_, lines), axes in zip(shown, panels, strict=True):
        named: set[int] = set()
        for (index, *_), rows in sorted(lines.items(), key=lambda item: item[0][0]):
            _line(axes, rows, series, index, gpus, index not in named)
            named.add(index)
        for low, high, limit in ((*axes.get_xlim(), axes.set_xlim), (*axes.get_ylim(), axes.set_ylim)):
            limit(0 if low < high / 2 else low - 0.1 * (high - low), high + 0.06 * (high - low))
    legend(canvas, panels[0], len(series.levels))
    caption = (
        "Each point is one load: right is what a user sees (1 / median time per output token), up is what "
        f"{'a GPU' if of_gpus else 'the server'} gives. Bars: 95 % intervals over launches, of two launches both "
        "values; lines join the loads of one layout from small to large. A curve above and to the right of another is "
        "better at every trade-off."
    )
    return finish(canvas, figure.name, figure.title, caption + left_out)


_LAYOUT = ("tp", "pp", "dp", "ep", "instances", "share_gpu")


def _gpus(study: Study) -> Callable[[Row], int]:
    """GPUs of a cell's launch; 0 where its platform has none."""
    platforms = study.platform_gpus

    def of(row: Row) -> int:
        if not platforms.get(row["platform"]):
            return 0
        each = row["tp"] * row["pp"] * row["dp"]
        return each * (1 if row["share_gpu"] else row["instances"])

    return of


def _line(axes: Axes, rows: Sequence[Row], series: Series, index: int, gpus: Callable[[Row], int], named: bool) -> None:
    kind = kind_of(rows[0])
    by_size: dict[float, list[Row]] = defaultdict(list)
    for row in rows:
        by_size[size_of(row)].append(row)
    points = []
    for size, mine in sorted(by_size.items()):
        user = _interval([1 / row["tpot_p50_s"] for row in mine])
        given = _interval([row["output_tokens_per_s"] / (gpus(row) or 1) for row in mine])
        points.append((size, user, given))
    colour = series.colour(index)
    axes.plot(
        [user[0] for _, user, _ in points],
        [given[0] for _, _, given in points],
        color=colour,
        marker=series.marker(index),
        markersize=4.5,
        linewidth=1.2,
        label=series.name(index) if named else None,
    )
    for _, (x, left, right), (y, low, high) in points:
        axes.plot([left, right], [y, y], color=colour, linewidth=0.9)
        axes.plot([x, x], [low, high], color=colour, linewidth=0.9)
    for size, (x, *_), (y, *_) in (points[0], points[-1]) if len(points) > 1 and index == 0 else ():
        axes.annotate(f"{size:g}{SIGNS[kind]}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=7.5)


def _interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Geometric mean over launches and the ends of its 95 % interval; of one launch, the value three times."""
    logs = [math.log(value) for value in values]
    mean = math.exp(math.fsum(logs) / len(logs))
    if len(logs) < 3:  # two launches have an interval that says nothing, and hides the others
        return mean, min(values), max(values)
    return (mean, *estimate(logs).interval(0.95))

"""Goodput against the offered rate, from the rates that searches for the capacity tried."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict

from servegauge.dataset.study_view import label, without
from servegauge.report.capacity_section import Search, capacity, searches
from servegauge.report.figure import Figure, Material
from servegauge.report.figure_style import MUTED, Drawn, finish, legend, nothing
from servegauge.report.plots.series import PANEL_IN, first_panels, grid

SHOWN = 1.6  # times the highest capacity or knee: what lies beyond is in capacity_steps.parquet


def goodput_curve(material: Material, figure: Figure) -> Drawn:
    """One panel per condition: a line per launch, its capacity marked."""
    series = material.series
    conditions: dict[str, list[Search]] = defaultdict(list)
    for one in searches(material.study):
        conditions[label(without(one.row, series.factor))].append(one)
    if not conditions:
        return nothing(figure.name, figure.title, "no cell searched a capacity (matrix.capacity)")
    shown, rest = first_panels(list(conditions.items()), "conditions", "all rates are in capacity_steps.parquet")
    titles = [condition for condition, _ in shown]
    canvas, panels = grid(titles, 1.25 * PANEL_IN[0], above=0.4, x="offered requests/s", y="good requests/s")
    for (_, found), axes in zip(shown, panels, strict=True):
        bends = [one.knee.rate_rps for one in found if one.knee]
        known = [one.row[end] for one in found for end in ("capacity_low_rps", "capacity_high_rps") if one.row[end]]
        most = SHOWN * max([*bends, *known])
        axes.plot([0, most], [0, most], color=MUTED, linewidth=0.8)
        for index in range(len(series.levels)):
            mine = [one for one in found if series.of(one.row) == index]
            for place, one in enumerate(mine):
                steps = [step for step in one.steps if step["goodput_rps"] is not None and step["rate_rps"] <= most]
                axes.plot(
                    [step["rate_rps"] for step in steps],
                    [step["goodput_rps"] for step in steps],
                    color=series.colour(index),
                    marker=series.marker(index),
                    markersize=3.5,
                    linewidth=1,
                    label=None if place else series.name(index),
                )
            if (at := capacity([one.row for one in mine])) is not None:
                axes.axvline(at, color=series.colour(index), linestyle=(0, (4, 2)), linewidth=1.1)
            axes.text(
                0.03, 0.97 - 0.09 * index, _bend(mine), color=series.colour(index),  # where no curve can be
                transform=axes.transAxes, ha="left", va="top", fontsize=8,
            )  # fmt: skip
        axes.set_xlim(0, most)
        axes.set_ylim(0, None)
    legend(canvas, panels[0], len(series.levels))
    caption = (
        "Requests per second that meet the SLO, at each rate that the searches tried: a line is one launch. On the "
        "grey line all do. Dashed: the capacity, where all launches bracketed it. Knee: up to where 95 % of the "
        "requests meet the SLO; a cliff where at 1.25 times that rate less than half of them do, else smooth."
    )
    return finish(canvas, figure.name, figure.title, caption + rest)


def _bend(found: list[Search]) -> str:
    """`knee 31/s, cliff`, over launches."""
    bends = [one.knee for one in found if one.knee]
    if not bends:
        return "no knee seen" if found else ""
    rate = statistics.geometric_mean(one.rate_rps for one in bends)
    kinds = Counter(one.kind for one in bends)
    kind_words = " and ".join(kind if len(kinds) == 1 else f"{kind} in {count}" for kind, count in kinds.most_common())
    return f"knee {rate:.3g}/s, {kind_words}"

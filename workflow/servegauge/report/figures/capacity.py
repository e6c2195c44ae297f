"""Goodput against load, with the capacity and the knee."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servegauge.report.figure import Figure, Material

if TYPE_CHECKING:
    from servegauge.report.figure_style import Drawn


def draw(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.capacity import goodput_curve

    return goodput_curve(figure.name, "Goodput against load, and the capacity", material.study, material.series)


CAPACITY = Figure(
    name="capacity",
    what="goodput against load, with the capacity",
    caption=(
        "Requests per second that meet the SLO at each rate that a search for the capacity tried, one line per launch; "
        "the capacity is dashed, the knee is written there."
    ),
    draw=draw,
    position=22,
    only_if_drawn=True,
)

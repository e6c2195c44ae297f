"""Where in the distribution a latency differs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servegauge.report.figure import Figure, Material

if TYPE_CHECKING:
    from servegauge.report.figure_style import Drawn


def draw(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.shift import shifts

    title = "Where in the distribution the time to first token differs"
    return shifts(figure.name, title, "ttft", material.comparison, material.series)


TTFT = Figure(
    name="shift-ttft",
    what="ratio of TTFT at each quantile",
    caption=(
        "The ratio of the time to first token at each quantile, with a band that holds all of them at once with 95 % "
        "over launches. A level line: everything became slower alike; a rising one: the tail did."
    ),
    draw=draw,
    position=15,
)

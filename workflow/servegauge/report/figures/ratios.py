"""Every headline metric over the baseline's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servegauge.report.figure import Figure, Material

if TYPE_CHECKING:
    from servegauge.report.figure_style import Drawn


def draw(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.ratios import ratios

    return ratios(figure.name, "Ratio to the baseline", material.comparison, material.series)


RATIOS = Figure(
    name="ratios",
    what="ratio to the baseline",
    caption=(
        "Each metric divided by the same on the baseline, with its 95 % interval over launches, one row per condition. "
        "An open marker: the sample does not carry this quantile."
    ),
    draw=draw,
    position=10,
)

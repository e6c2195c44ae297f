"""What the cells used of what the platforms' own probes reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servegauge.report.figure import PLATFORMS, Figure, Material

if TYPE_CHECKING:
    from servegauge.report.figure_style import Drawn


def draw(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.roofline import roofline_figure

    return roofline_figure(material.platforms.panels, figure.name)


ROOFLINE = Figure(
    name="roofline",
    what="roofline of the platforms",
    caption=(
        "Ceilings that each platform's probes reached, the model's matrix products as probed, and where the cells' "
        "decode steps and prefills lie. docs/roofline.md has the formulas."
    ),
    draw=draw,
    section=PLATFORMS,
    position=40,
)

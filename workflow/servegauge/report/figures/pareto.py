"""What users get against what a GPU gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servegauge.report.figure import Figure, Material

if TYPE_CHECKING:
    from servegauge.report.figure_style import Drawn


def draw(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.pareto import pareto

    return pareto(figure.name, "What a user gets and what a GPU gives", material.study, material.series)


PARETO = Figure(
    name="pareto",
    what="tokens/s/GPU against tokens/s/user",
    caption=(
        "Output tokens per second and GPU against output tokens per second and user (1 / median TPOT), a point per "
        "load with its 95 % intervals over launches (of two launches: both values)."
    ),
    draw=draw,
    position=24,
)

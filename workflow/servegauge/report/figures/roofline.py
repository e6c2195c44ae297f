"""What the cells used of what the platforms' own probes reached."""

from __future__ import annotations

from servegauge.report.figure import PLATFORMS, Figure, plot

ROOFLINE = Figure(
    name="roofline",
    what="roofline of the platforms",
    caption=(
        "Ceilings that each platform's probes reached, the model's matrix products as probed, and where the cells' "
        "decode steps and prefills lie. docs/roofline.md has the formulas."
    ),
    title="Roofline",
    draw=plot("roofline.roofline_figure"),
    section=PLATFORMS,
    position=40,
)

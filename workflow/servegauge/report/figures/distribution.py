"""The whole distribution of a latency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servegauge.report.figure import Figure, Material

if TYPE_CHECKING:
    from servegauge.report.figure_style import Drawn

TITLES = {"ttft": "time to first token", "tpot": "time per output token", "e2e": "end-to-end latency"}


def draw(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.distribution import distributions

    metric = figure.name.removeprefix("distribution-")
    return distributions(figure.name, f"Distribution of the {TITLES[metric]}", metric, material.study, material.series)


def _figure(metric: str, position: int) -> Figure:
    caption = "Share of the answered requests of the window at or below each latency, one line per launch."
    return Figure(f"distribution-{metric}", f"distribution of {metric.upper()}", caption, draw, position=position)


TTFT = _figure("ttft", 30)
TPOT = _figure("tpot", 31)
E2E = _figure("e2e", 32)

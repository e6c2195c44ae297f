"""A figure that nobody needs: how many cells there are."""

from __future__ import annotations

from servegauge.report.figure import Figure


def draw(material, figure):
    from servegauge.report.figure_style import nothing

    return nothing(figure.name, "Made-up figure", f"made-up: {len(material.study.cells)} cells")


MADE_UP = Figure("made-up", "made-up cells", "Made-up: how many cells there are.", draw)

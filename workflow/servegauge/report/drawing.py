"""Every figure of a study's report, drawn."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl

from servegauge.compare.results import Comparison
from servegauge.dataset.study_view import Study
from servegauge.report.figure import Material
from servegauge.report.figure_style import STYLE, Drawn
from servegauge.report.figures import figures
from servegauge.report.platform_section import PlatformSection
from servegauge.report.plots.series import Series
from servegauge.report.traced import Traced


def draw(
    study: Study, comparison: Comparison | None, platforms: PlatformSection, traced: Sequence[Traced] = ()
) -> dict[str, Drawn]:
    """Figure name -> what was drawn; each says in its place when there is nothing to plot."""
    factor, _ = study.factor()
    levels = comparison.levels if comparison else study.levels(factor) if factor else [None]
    material = Material(study, comparison, platforms, Series(factor, levels), traced)
    with mpl.rc_context(STYLE):
        return {name: figure.draw(material, figure) for name, figure in figures().items()}

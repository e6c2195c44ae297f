"""What a figure of the report is: one declaration, from which its file, its place on the page and its output in
Snakemake follow. `figures/` holds the declarations; `plots/` the kinds of plots that they draw with.

A declaration imports no plotting library: the Snakefile reads all of them to know the files of a report.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from servegauge.compare.results import Comparison
    from servegauge.dataset.study_view import Study
    from servegauge.report.figure_style import Drawn
    from servegauge.report.platform_section import PlatformSection
    from servegauge.report.plots.series import Series
    from servegauge.report.traced import Traced

FIGURES, PLATFORMS, TRACES = "figures", "platforms", "traces"  # sections of the page


@dataclass(frozen=True)
class Material:
    """What a figure is drawn from: a study, its comparison (None: nothing is compared), platforms, series, traces."""

    study: Study
    comparison: Comparison | None
    platforms: PlatformSection
    series: Series
    traced: Sequence[Traced] = ()


@dataclass(frozen=True)
class Figure:
    """One figure. Its file is results/report/<study>/<name>.svg; it is written for every study.

    `draw` is given the material and returns the drawing, which says in its place when there is nothing to plot.
    """

    name: str
    what: str  # a few words for a list of figures
    caption: str  # what is plotted, for a reader of the file without the page
    draw: Callable[[Material, Figure], Drawn]
    section: str = FIGURES
    position: int = 1000
    only_if_drawn: bool = False  # the page leaves it out where there is nothing to plot; the file says so
    title: str = ""  # of the drawing, above it on the page


def plot(where: str) -> Callable[[Material, Figure], Drawn]:
    """Draws by `<module>.<function>` of `plots/`, which is imported when it draws and not before."""
    module, _, name = where.partition(".")

    def draw(material: Material, figure: Figure) -> Drawn:
        return getattr(importlib.import_module(f"servegauge.report.plots.{module}"), name)(material, figure)

    return draw

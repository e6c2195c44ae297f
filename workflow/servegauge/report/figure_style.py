"""How the report's figures look: colours, fonts, and the two forms that a figure's SVG takes.

A figure is drawn once, with placeholder colours. `inline` turns them into CSS variables, so that the figure follows the
page into dark mode; `standalone` into fixed colours on white, for a file.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from dataclasses import dataclass, replace
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import LogFormatterSciNotation

# Okabe and Ito's palette, then the same lightened for a dark page.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DARK_COLOURS = ("#5cb8f0", "#ff9a57", "#3fcfa2", "#e8a5c8", "#f2c14e", "#9ad4f5")
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, GRID, MUTED = "#010203", "#010204", "#010205"
WORSE, BETTER, SAME = "#010206", "#010207", "#010208"  # verdicts
SERIES = [f"#0a0b{index:02x}" for index in range(len(COLOURS))]
ROOM = 3.0  # between two tick labels, in points: browsers set type wider than matplotlib measures it
_REAL = {  # placeholder -> the colour in a file, and on the page
    INK: ("#1b1f24", "currentColor"),
    GRID: ("#d8dee4", "var(--grid)"),
    MUTED: ("#6a737d", "var(--muted)"),
    WORSE: ("#b3400a", "var(--worse)"),
    BETTER: ("#0a6b4f", "var(--better)"),
    SAME: ("#5b6f8a", "var(--same)"),
    **{colour: (COLOURS[index], f"var(--s{index})") for index, colour in enumerate(SERIES)},
}


class PlainNumbers(LogFormatterSciNotation):
    """Where matplotlib labels a logarithmic axis, the number as it is written elsewhere; no formula."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


STYLE: dict[Any, Any] = {  # matplotlib declares each key as a literal
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.parse_math": False,  # a name with two $ is a name, and no formula
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass(frozen=True)
class Drawn:
    """A drawn figure: file name without ending, title, what is plotted, and the SVG with placeholder colours."""

    name: str
    title: str
    caption: str
    svg: str
    empty: bool = False  # there was nothing to plot

    @property
    def standalone(self) -> str:
        """A file of its own, on white."""
        svg = _coloured(self.svg, 0)
        return re.sub(r"(<svg [^>]*>)", r'\1<rect width="100%" height="100%" fill="#ffffff"/>', svg, count=1)

    @property
    def inline(self) -> str:
        """For a page that defines --s0 ..., --grid and --muted; ids are made unique by the figure's name."""
        svg = _coloured(self.svg[self.svg.index("<svg") :], 1)
        svg = re.sub(r'\bid="', f'id="{self.name}-', svg)
        svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{self.name}-", svg)
        width = float(next(re.finditer(r'viewBox="0 0 ([\d.]+)', svg))[1])  # in points; a small figure stays small
        size = f"max-width: {1.5 * width:.0f}px; min-width: {width:.0f}px"  # narrower, nobody could read its labels
        title = f'<svg role="img" aria-label="{self.title}" style="{size}" '
        return re.sub(r"^<svg (?:[^>]*?)(?=viewBox)", title, svg, count=1)


def _coloured(svg: str, which: int) -> str:
    for placeholder, colours in _REAL.items():
        svg = svg.replace(placeholder, colours[which])
    return svg


def finish(canvas: Canvas, name: str, title: str, caption: str) -> Drawn:
    """The drawn canvas as a figure; the same data give the same bytes."""
    FigureCanvasSVG(canvas)
    untangle(canvas)
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        canvas.savefig(
            out, format="svg", bbox_inches="tight", pad_inches=0.05, metadata={"Date": None, "Creator": None}
        )
    return Drawn(name, title, caption, out.getvalue())


def untangle(canvas: Canvas) -> None:
    """No label lies on another: titles are broken into lines of their panel's width, and tick labels taken out until
    those of an axis leave each other room. The same rule for every figure and scale."""
    canvas.draw_without_rendering()
    broken = [_broken(axes, where) for axes in canvas.axes for where in _WHERE]
    if any(broken):
        canvas.draw_without_rendering()
    for axes in canvas.axes:
        for axis, (low, high) in ((axes.xaxis, ("x0", "x1")), (axes.yaxis, ("y0", "y1"))):
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            labels = [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text().strip()]
            boxes = [(label.get_window_extent(), label) for label in labels]
            last = -math.inf
            for box, label in sorted(boxes, key=lambda one: float(getattr(one[0], low))):
                if getattr(box, low) < last + ROOM:
                    label.set_visible(False)
                else:
                    last = getattr(box, high)


_WHERE: tuple[Literal["left", "center"], ...] = ("left", "center")


def _broken(axes: Axes, where: Literal["left", "center"]) -> bool:
    """Break a title that is wider than its panel into lines; True where it was."""
    text, room = axes.get_title(where), axes.get_window_extent().width
    title = axes.set_title(text, loc=where)
    wide = title.get_window_extent().width
    if not text or wide <= room:
        return False
    title.set_text("\n".join(textwrap.wrap(text, max(8, int(0.95 * len(text) * room / wide)))))
    return True


def nothing(name: str, title: str, why: str) -> Drawn:
    """A figure that says why there is nothing to plot."""
    canvas = Canvas(figsize=(6, 0.6))
    canvas.text(0.5, 0.5, why, ha="center", va="center", color=MUTED)
    return replace(finish(canvas, name, title, why), empty=True)


def legend(canvas: Canvas, axes: Axes, columns: int) -> None:
    """One legend above all panels, from the handles of one of them."""
    handles, names = axes.get_legend_handles_labels()
    if names:
        canvas.legend(
            handles, names, loc="outside upper left", ncols=min(columns, len(names)), fontsize=9, handlelength=2.4
        )

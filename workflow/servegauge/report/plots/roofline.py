"""The roofline: one panel a platform, with what the probes measured, the model's products, and where the cells lie."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from servegauge.compare.probe_effects import variant_of
from servegauge.report import figure_style
from servegauge.report.figure import Figure, Material
from servegauge.report.roofline import Ceiling, Panel

PANEL_IN = (4.2, 3.2)  # width, height of one panel, inches
COLUMNS = 2
CAPTION = (
    "Lines: the ceilings that the platform's own probes reached (solid) and the vendor's (dotted), per GPU or for the "
    "server's CPUs. Small points: the model's matrix products as probed, by data type. Filled marks: the cells' decode "
    "steps (median TPOT); open marks: their prefills (median TTFT, queueing included). A point below the sloping line "
    "leaves memory bandwidth unused, one below the flat line arithmetic."
)


VENDOR = "vendor"


def roofline_figure(material: Material, figure: Figure) -> figure_style.Drawn:
    """The figure of all panels on common axes; it says so where no platform has both ceilings."""
    drawn = [panel for panel in material.platforms.panels if _roofs(panel)]
    if not drawn:
        return figure_style.nothing(
            figure.name, figure.title, "no platform was probed for both gemm and memory bandwidth, or has the vendor's"
        )
    columns = min(COLUMNS, len(drawn))
    lines = -(-len(drawn) // columns)
    canvas = Canvas(figsize=(PANEL_IN[0] * columns, PANEL_IN[1] * lines + 0.5), layout="constrained")
    axes = canvas.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    limits = _limits(drawn)
    for panel, one in zip(drawn, axes, strict=False):
        _draw(one, panel, limits)
    for unused in list(axes)[len(drawn) :]:
        unused.set_visible(False)
    canvas.supxlabel("operations per byte", fontsize=9)
    canvas.supylabel("TFLOP/s per GPU, or of the server's CPUs", fontsize=9)
    figure_style.legend(canvas, canvas.axes[0], 3)
    return figure_style.finish(canvas, figure.name, figure.title, CAPTION)


def _products(panel: Panel) -> list[tuple[str, float, float]]:
    """(data type, operations per byte, TFLOP/s) of each of the model's products that was probed on the platform."""
    found: dict[str, dict[str, Any]] = {}
    for row in panel.rows:
        if row["probe"] == "model_gemm" and row["platform"] == panel.ceilings.platform and row["value"]:
            found.setdefault(str(row["variant"]), {"variant": variant_of(row)})[row["metric"]] = row["value"]
    return [
        (one["variant"]["dtype"], one["tflops"] * 1e3 / one["bandwidth_gb_s"], one["tflops"])
        for one in found.values()
        if one.get("tflops") and one.get("bandwidth_gb_s")
    ]


def _limits(panels: Iterable[Panel]) -> tuple[float, float, float, float]:
    """Left, right, bottom, top that hold every ridge and every point, with room."""
    x, y = [], []
    for panel in panels:
        for memory, peak in _roofs(panel):
            x.append(peak.value * 1e3 / memory.value)
            y.append(peak.value)
        points = [point for cell in panel.cells for point in (cell.decode, cell.prefill) if point]
        x += [point.intensity for point in points] + [intensity for _, intensity, _ in _products(panel)]
        y += [point.tflops for point in points] + [tflops for _, _, tflops in _products(panel)]
    return min(x) / 4, max(x) * 6, min(y) / 4, max(y) * 3


def _roofs(panel: Panel) -> list[tuple[Ceiling, Ceiling]]:
    """(memory, arithmetic) as measured, then the vendor's where both are known."""
    known = panel.ceilings
    peak = known.arithmetic(panel.dtype)
    roofs = [(known.memory_gb_s, peak)] if known.memory_gb_s and peak else []
    if known.vendor_tflops and known.vendor_memory_gb_s:
        roofs.append((Ceiling(known.vendor_memory_gb_s, VENDOR), Ceiling(known.vendor_tflops, VENDOR)))
    return roofs


def _draw(axes: Axes, panel: Panel, limits: tuple[float, float, float, float]) -> None:
    left, right, bottom, top = limits
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    x = np.geomspace(left, right, 200)
    for memory, peak in _roofs(panel):
        vendor = memory.source == VENDOR
        style: dict[str, Any] = {
            "color": figure_style.MUTED if vendor else figure_style.INK,
            "linestyle": ":" if vendor else "-",
        }
        axes.plot(x, np.minimum(peak.value, x * memory.value / 1e3), label=VENDOR if vendor else "measured", **style)
    memory, peak = _roofs(panel)[0]
    whose = f" ({VENDOR})" if memory.source == VENDOR else ""
    axes.set_title(f"{panel.ceilings.platform}: {peak.value:.3g} TFLOP/s, {memory.value:.4g} GB/s{whose}", loc="left")
    products = _products(panel)
    for index, dtype in enumerate(sorted({dtype for dtype, _, _ in products})):
        mine = [(intensity, tflops) for kind, intensity, tflops in products if kind == dtype]
        colour = figure_style.SERIES[(index + 2) % len(figure_style.SERIES)]
        axes.plot(*zip(*mine, strict=True), ".", color=colour, markersize=4, label=f"model's products, {dtype}")
    for which, index, filled in (("decode", 0, True), ("prefill", 1, False)):
        points = [point for cell in panel.cells if (point := getattr(cell, which))]
        if points:
            axes.plot(
                [point.intensity for point in points],
                [point.tflops for point in points],
                figure_style.MARKERS[index],
                color=figure_style.SERIES[index],
                fillstyle="full" if filled else "none",
                markersize=5,
                label=f"cells, {which}",
            )

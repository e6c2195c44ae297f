"""Plots of traces: phases on CPU and GPU, the way to a first token, and the GPU's idle time by cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from servegauge.report import figure_style
from servegauge.report.figure import Figure, Material
from servegauge.report.figure_style import Drawn
from servegauge.report.plots.series import first_panels, grid
from servegauge.report.traced import CAUSES, groups, idle_parts, means, phase_rows
from servegauge.traces import phases, ttft_means

PANEL_IN = (3.6, 2.4)  # width, height of one panel, inches
COLUMNS = 2
CAUSE_TEXTS = {
    "host_late": "host late",
    "launch_call": "launch call",
    "synchronisation": "synchronisation",
    "device": "called for, not started",
    "unattributed": "no call known",
}
NOTHING = "nothing was traced"


def phases_figure(material: Material, figure: Figure) -> Drawn:
    """Bars of each phase: CPU beside GPU, level beside level, a panel for each condition."""
    traced = material.traced
    found = means(phase_rows(traced))
    if not found:
        return figure_style.nothing(figure.name, figure.title, "no trace tells the phases" if traced else NOTHING)
    every = list(dict.fromkeys(key[0] for key in found))
    conditions, rest = first_panels(every, "conditions", "all are in phase-table.csv")
    levels = list(dict.fromkeys(key[1] for key in found))
    shown = [phase for phase in phases.ORDER if any(key[2] == phase for key in found)]
    wide = max(PANEL_IN[0], 0.5 * len(shown) * len(levels))
    canvas, axes = grid(conditions, wide, PANEL_IN[1], 0.5, COLUMNS, loc="left")
    width = 0.8 / (2 * len(levels))
    for condition, one in zip(conditions, axes, strict=True):
        for index, level in enumerate(levels):
            colour = _colour(index)
            for kind, column in enumerate(("cpu_ns", "gpu_busy_ns")):
                heights = [found.get((condition, level, phase), {}).get(column) for phase in shown]
                at = np.arange(len(shown)) - 0.4 + width * (2 * index + kind + 0.5)
                fill: dict[str, Any] = {"facecolor": "none", "edgecolor": colour} if kind else {"color": colour}
                one.bar(
                    at,
                    [np.nan if height is None else height for height in heights],
                    width * 0.9,
                    linewidth=1.2,
                    label=f"{level}, {'GPU busy' if kind else 'CPU'}",
                    **fill,
                )
        one.set_xticks(np.arange(len(shown)), shown)
        one.grid(axis="x", visible=False)
    canvas.supylabel("ms a step", fontsize=9)
    figure_style.legend(canvas, axes[0], 4)
    return figure_style.finish(canvas, figure.name, figure.title, figure.caption + rest)


def ttft_figure(material: Material, figure: Figure) -> Drawn:
    """A waterfall of the mean TTFT: a line a part, a bar a level where the part lies, a panel for each condition."""
    traced = material.traced
    found = {key: ttft_means.mean([one.tables["request_ttft"] for one in some]) for key, some in groups(traced).items()}
    known = {key: mean for key, mean in found.items() if mean is not None}
    if not known:
        why = "no trace tells the parts of a request's TTFT" if traced else NOTHING
        return figure_style.nothing(figure.name, figure.title, why)
    every = list(dict.fromkeys(key[0] for key in known))
    conditions, rest = first_panels(every, "conditions", "all are in trace_request_ttft of the dataset")
    levels = list(dict.fromkeys(key[1] for key in known))
    known_parts = {part for mean in known.values() for part, value in mean.parts.items() if value}
    lines = [part for part in ttft_means.WORDS if part in known_parts]
    height = 0.3 + (len(lines) + 1) * (0.12 + 0.13 * len(levels))
    canvas, axes = grid(conditions, PANEL_IN[0] + 0.4, height, 0.5, COLUMNS, loc="left")
    thick = 0.8 / len(levels)
    for condition, one in zip(conditions, axes, strict=True):
        most = max(mean.ttft_ns for (where, _), mean in known.items() if where == condition) / 1e6
        for index, level in enumerate(levels):
            if (condition, level) in known:
                shift = 0.4 - thick * (index + 0.5)
                _waterfall(one, known[condition, level], lines, shift, thick, most, _colour(index), level)
        words = [*(ttft_means.WORDS[part] for part in lines), "TTFT"]
        one.set_yticks(np.arange(len(words))[::-1], words)
        one.set_xlim(0, 1.22 * most)
        one.set_ylim(-0.7, len(words) - 0.3)
        one.grid(axis="y", visible=False)
    canvas.supxlabel("ms after it was sent", fontsize=9)
    figure_style.legend(canvas, axes[0], 4)
    return figure_style.finish(canvas, figure.name, figure.title, figure.caption + rest)


def _waterfall(
    axes: Axes,
    mean: ttft_means.Mean,
    lines: Sequence[str],
    shift: float,
    thick: float,
    most: float,
    colour: str,
    level: str,
) -> None:
    """One level's bars, each where its part lies, with its length in ms beside it; the whole at the bottom."""
    left = 0.0
    values = [mean.parts[part] for part in lines]
    for number, value in enumerate([*values, mean.ttft_ns]):
        at = len(lines) - number + shift
        begin = 0.0 if number == len(lines) else left
        if value is None:
            axes.text(begin + 0.01 * most, at, "unknown", fontsize=6.5, va="center", color=figure_style.MUTED)
            continue
        long = value / 1e6
        axes.barh(at, long, thick * 0.9, left=begin, color=colour, label=None if number else level)
        axes.text(begin + long + 0.01 * most, at, f"{long:.3g}", fontsize=6.5, va="center", color=figure_style.INK)
        left = begin + long


def idle_figure(material: Material, figure: Figure) -> Drawn:
    """One bar for each condition, phase and level: busy, then idle by cause."""
    bars: list[tuple[str, dict[str, float]]] = []
    traced = material.traced
    found = groups(traced)
    seen = list(means(phase_rows(traced)))
    conditions = list(dict.fromkeys(key[0] for key in seen))
    beside = sorted(seen, key=lambda key: (conditions.index(key[0]), phases.ORDER.index(key[2])))
    for condition, level, phase in beside:
        known = [parts for one in found[condition, level] if (parts := idle_parts(one.tables, phase))]
        if phase != "sampling" and known:
            words = ", ".join(filter(None, (condition, phase, level)))
            bars.append((words, {key: sum(parts[key] for parts in known) / len(known) for key in known[0]}))
    if not bars:
        return figure_style.nothing(
            figure.name, figure.title, "no trace has GPU work in its steps" if traced else NOTHING
        )
    canvas = Canvas(figsize=(7.0, 0.32 * len(bars) + 1.0), layout="constrained")
    axes = canvas.subplots()
    at = np.arange(len(bars))[::-1]
    left = np.zeros(len(bars))
    colours = [figure_style.INK, *figure_style.SERIES]
    for index, cause in enumerate(("busy", *CAUSES)):
        values = np.array([parts[cause] for _, parts in bars])
        if values.any():
            cause_text = "GPU busy" if cause == "busy" else CAUSE_TEXTS[cause]
            axes.barh(at, values, 0.7, left=left, color=colours[index], label=cause_text)
        left += values
    axes.set_yticks(at, [words for words, _ in bars])
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("ms a step")
    figure_style.legend(canvas, axes, 3)
    return figure_style.finish(canvas, figure.name, figure.title, figure.caption)


def _colour(index: int) -> str:
    return figure_style.SERIES[index % len(figure_style.SERIES)]

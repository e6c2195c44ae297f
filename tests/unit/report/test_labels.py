"""No label of a figure lies on another, or outside its figure: long names, many conditions, every figure."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text

from servegauge.compare.compare import compare
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.report import figure_style
from servegauge.report.page import draw
from servegauge.report.platform_section import platform_section
from servegauge.report.traced import of_study
from tests import synthetic, trace_results
from tests.synthetic_capacity import add_searches

LONG = "conversations-of-an-assistant-with-{}-word-questions"
TOUCH = 1.0  # points that the boxes of two labels may share: half a leading


def lengthened(study: Study, times: int) -> Study:
    """The same study whose prompts have long names, and `times` as many of them."""
    rows = list(study.cells)
    study.cells = []
    for number, row in itertools.product(range(times), rows):
        prompts = f"{LONG.format(row['prompts'])}-{number}"
        study.cells.append({**row, "prompts": prompts, "axes": {**row["axes"], "prompts": prompts}})
    return study


def labels_that_collide(canvas: Canvas) -> list[str]:
    """Pairs of texts whose boxes share more than TOUCH points both ways; ticks beyond an axis are not drawn."""
    hidden: set[int] = set()
    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                seen = low <= tick.get_loc() <= high
                hidden |= {id(label) for label in (tick.label1, tick.label2) if not (seen and label.get_visible())}
    texts = [one for one in canvas.findobj(Text) if one.get_visible() and id(one) not in hidden]
    boxes = [(one.get_text(), one.get_window_extent()) for one in texts if one.get_text().strip()]
    found = []
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if across > TOUCH and down > TOUCH:
            found.append(f"{one} | {other}")
    return found


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_labels_do_not_collide(tmp_path, monkeypatch) -> None:
    synthetic.make_results(tmp_path, requests=60, repeats=2)
    add_searches(tmp_path, {"own-cpu": 31.0, "shared-cpu": 0.9})
    results = tmp_path / "results"
    merge.merge(results)
    for cell in merge.read(results, "cells").to_pylist():
        if cell["status"] == "ok" and cell["repeat"] == 1 and cell["concurrency"] == 1:
            trace_results.write_trace(results, f"t-{cell['cell']}", cell, trace_results.h100_joined())
    merge.merge(results)
    study = lengthened(Study(results, "demo"), 3)
    collide: list[list[str]] = []
    untangle = figure_style.untangle

    def looked_at(canvas: Canvas) -> None:
        untangle(canvas)
        canvas.draw_without_rendering()
        collide.append(labels_that_collide(canvas))

    monkeypatch.setattr(figure_style, "untangle", looked_at)
    comparison = compare(study)
    figures = draw(study, comparison, platform_section(study, comparison), of_study(study))
    assert len(collide) == len(figures)
    assert [name for name, found in zip(figures, collide, strict=True) if found] == []


def test_a_name_is_no_formula(tmp_path, only_figures) -> None:
    """Matplotlib reads what stands between two $ as mathematics, and ends where it cannot."""
    only_figures("ratios", "distribution-ttft")
    synthetic.make_results(tmp_path, requests=20, repeats=2)
    merge.merge(tmp_path / "results")
    study = Study(tmp_path / "results", "demo")
    for row in study.cells:
        prompts = rf"{row['prompts']}$\frac{{$"
        row.update(prompts=prompts, axes={**row["axes"], "prompts": prompts})
    comparison = compare(study)
    figures = draw(study, comparison, platform_section(study, comparison), of_study(study))
    assert all(r"short$\frac{$" in figure.inline for figure in figures.values())
    assert not any("mathdefault" in figure.inline for figure in figures.values())


def test_a_logarithmic_axis_is_labelled_with_plain_numbers() -> None:
    with mpl.rc_context(figure_style.STYLE):
        canvas = Canvas()
        axes = canvas.add_subplot()
        axes.plot([0.2, 700], [0.2, 700])
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(figure_style.PlainNumbers())
        axes.xaxis.set_minor_formatter(figure_style.PlainNumbers())
        canvas.draw_without_rendering()
        labels = [tick.label1.get_text() for tick in axes.xaxis.get_major_ticks()]
    assert {"1", "10", "100"} <= set(labels)

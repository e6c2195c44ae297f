"""Searches for the capacity through the dataset, the comparison and the report."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from servegauge.base.files import read_json, write_json
from servegauge.compare.compare import compare
from servegauge.compare.expectations import expectations
from servegauge.compare.knee import CLIFF, SMOOTH, Knee, knee
from servegauge.compare.sentences import sentence
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study
from servegauge.report.page import render
from servegauge.report.terminal import summarise
from tests import synthetic
from tests.synthetic_capacity import add_searches

OWN, SHARED = 4.6, 3.7


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A study whose launches searched a capacity: short prompts between two rates, long ones beyond the highest."""
    root = tmp_path_factory.mktemp("searched")
    synthetic.make_results(root, repeats=4)
    add_searches(root, {"own-cpu": OWN, "shared-cpu": SHARED})
    add_searches(root, {"own-cpu": 99.0, "shared-cpu": SHARED}, cliff=False, most_rps=8.0, prompts="long")
    merge.merge(root / "results")
    return root / "results"


@pytest.fixture(scope="module")
def comparison(results):
    return compare(Study(results, "demo"))


def test_it_is_compared_like_any_statistic_and_leads_the_answer(comparison):
    assert comparison.primary == ["ttft_p50", "tpot_p50", "capacity_rps"]
    [short, long] = comparison.of("capacity_rps")
    assert short.low < SHARED / OWN < short.high
    assert short.ratio == pytest.approx(SHARED / OWN, rel=0.015)
    assert (short.verdict, short.pairs) == ("slower", 4)
    assert short.high > short.low * 1.003, "what the grid rounds off is in the interval"
    assert long.verdict == "not comparable"
    assert (long.value, long.base_value) == (pytest.approx(SHARED, rel=0.04), None), "never a plain number"


def test_what_no_rate_stopped_is_said_and_no_number(results, comparison):
    [_, long] = comparison.of("capacity_rps")
    assert "in 4 of 8 launches the capacity is at least 8 requests/s" in long.reason
    assert "raise capacity.most_rps" in sentence(comparison, long)
    rows = [row for row in Study(results, "demo").searches if row["capacity_high_rps"] is None]
    assert [(row["capacity_rps"], row["capacity_low_rps"], row["censored"]) for row in rows] == [
        (None, 8.0, ["capacity_rps"])
    ] * 4


def test_nothing_else_of_a_search_is_compared(comparison):
    searched = [key for key, axes in comparison.conditions.items() if axes.get("capacity")]
    assert {one.metric.name for one in comparison.ratios if one.condition in searched} == {"capacity_rps"}


def test_the_steps_are_rows_of_the_dataset(results):
    study = Study(results, "demo")
    row = study.searches[0]
    steps = study.steps(row)
    assert {step["cell"] for step in steps} == {row["cell"]}
    assert [step["rate_rps"] for step in steps] == sorted(step["rate_rps"] for step in steps)
    assert row["capacity_rps"] == max(step["rate_rps"] for step in steps if step["attained"])


def test_the_windows_of_all_rates_are_windows_of_the_job(results, tmp_path):
    shutil.copytree(results, tmp_path / "results")
    for path in (tmp_path / "results").glob("launches/*/attempt-0.json"):
        times = {"started_utc": "2026-11-26T12:00:00Z", "finished_utc": "2026-11-26T14:00:00Z"}
        write_json(path, {**read_json(path), **times})
    merge.merge(tmp_path / "results")
    study = Study(tmp_path / "results", "demo")
    attempt = merge.read(study.results, "attempts").to_pylist()[0]
    mine = [row for row in study.everything if row["launch"] == attempt["launch"]]
    steps = [step["window_s"] for row in mine if row["capacity"] for step in study.steps(row)]
    own = [row["window_s"] or 0 for row in mine if not row["capacity"]]
    assert attempt["windows_s"] == pytest.approx(sum(steps) + sum(own))


def test_page_and_terminal_show_it(results, tmp_path):
    page = tmp_path / "demo.html"
    render(results, "demo", page)
    text = page.read_text(encoding="utf-8")
    assert 'id="figure-capacity"' in text
    assert "≥ 8.00 /s" in text
    order = ["ratios", "shift-ttft", "ttft", "tpot", "capacity", "pareto", "throughput", "distribution-ttft"]
    places = [text.index(f'<figure id="figure-{name}"') for name in order]
    assert places == sorted(places)
    assert text.index('id="answer"') < text.index('id="comparison"') < places[0]
    curve = (tmp_path / "demo" / "capacity.svg").read_text(encoding="utf-8")
    assert "cliff" in curve
    assert "smooth" in curve
    assert "≥ 8.00 /s" in summarise(results, "demo")[0]


def test_an_answer_without_a_ratio_is_said(tmp_path, no_figures):
    """Every launch of one side is below what was tried: nothing is comparable, and that is the answer."""
    synthetic.make_results(tmp_path, repeats=3)
    add_searches(tmp_path, {"own-cpu": 0.001, "shared-cpu": SHARED})
    results, page = tmp_path / "results", tmp_path / "demo.html"
    plan = read_json(results / "plan" / "demo.json")
    plan["cells"] = [cell for cell in plan["cells"] if cell["load"].get("capacity")]
    write_json(results / "plan" / "demo.json", plan)
    merge.merge(results)
    said = "Capacity on shared-cpu is not comparable: in 3 of 6 launches the capacity is below 0.0"
    assert said in " ".join(summarise(results, "demo")[0].split())
    render(results, "demo", page)
    assert f'<p class="answer">{said}' in page.read_text(encoding="utf-8")


def test_a_published_figure_is_of_the_cells_that_give_its_metric(results):
    study = Study(results, "demo")
    where = {"platform": "shared-cpu", "prompts": "short"}
    asked = [("capacity_rps", SHARED), ("tpot_p50", 0.00176)]
    study.row["expects"] = json.dumps(
        [{"metric": name, "where": where, "value": value, "cite": "the truth"} for name, value in asked]
    )
    capacity, tpot = expectations(study)
    assert capacity.measured == pytest.approx(SHARED, rel=0.03)
    assert tpot.measured == pytest.approx(0.00176, rel=0.03)


def test_a_study_without_a_search_has_nothing_of_it(tmp_path, only_figures):
    synthetic.make_results(tmp_path, requests=20, repeats=1)
    merge.merge(tmp_path / "results")
    only_figures("capacity")
    render(tmp_path / "results", "demo", tmp_path / "demo.html")
    text = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert "figure-capacity" not in text
    assert "capacity" not in summarise(tmp_path / "results", "demo")[0]


RATES = 2 ** np.arange(0, 5.5, 0.5)


def test_the_knee():
    falls = np.where(RATES <= 8, 1.0, 8 / RATES)
    assert knee(RATES, falls) == Knee(8.0, SMOOTH)
    assert knee(RATES, np.where(RATES <= 8, 1.0, 0.02)) == Knee(8.0, CLIFF)
    assert knee(RATES[::-1], falls[::-1]) == Knee(8.0, SMOOTH), "in any order"
    assert knee(RATES, np.ones(11)) is None, "nothing bends"
    assert knee(RATES, np.zeros(11)) is None
    assert knee([], []) is None

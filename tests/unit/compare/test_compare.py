"""Ratios to the baseline: numbers by hand, the known truth of the made-up results, and intervals that behave."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.compare.bootstrap import interval, resample_quantile
from servegauge.compare.compare import Comparison, compare
from servegauge.dataset import merge
from servegauge.dataset.study_view import METRICS, Study, label, level_text
from tests import synthetic

PLANS = "plan/demo.json"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    synthetic.make_results(root, requests=400)
    merge.merge(root / "results")
    return root / "results"


@pytest.fixture(scope="module")
def comparison(results) -> Comparison:
    found = compare(Study(results, "demo"))
    assert found
    return found


def condition(comparison: Comparison, text: str) -> str:
    return next(key for key in comparison.conditions if comparison.label(key) == text)


def test_what_is_compared_and_under_which_conditions(comparison):
    assert (comparison.factor, comparison.baseline, comparison.levels) == (
        "platform",
        "own-cpu",
        ["own-cpu", "shared-cpu"],
    )
    assert sorted(comparison.label(key) for key in comparison.conditions) == [
        *("long, concurrency 1", "long, rate 2/s", "long, rate 4/s"),
        *("short, concurrency 1", "short, rate 2/s", "short, rate 4/s"),
    ]


def test_a_ratio_is_the_mean_over_launches_divided_by_the_baselines(comparison):
    key = condition(comparison, "short, rate 4/s")
    rows = [row for row in comparison.study.ok if row["prompts"] == "short" and row["rate_rps"] == 4]
    for metric in ("ttft_p50", "tpot_p99", "ttft_scheduled_p99", "output_tokens_per_s"):
        column = next(one.column for one in METRICS if one.name == metric)
        means = {
            platform: math.fsum(row[column] for row in rows if row["platform"] == platform) / 2
            for platform in ("own-cpu", "shared-cpu")
        }
        (ratio,) = comparison.of(metric, key)
        assert ratio.ratio == pytest.approx(means["shared-cpu"] / means["own-cpu"])
        assert (ratio.launches, ratio.base_launches, ratio.paired, ratio.requests) == (2, 2, True, 400)


def test_the_known_truth_is_found(comparison):
    """TTFT x 1.3 and TPOT x 1.1, each launch off by about 1 %: a ratio of two means of two is off by about 1 %."""
    for ratio in comparison.of("ttft_p50"):
        assert ratio.ratio == pytest.approx(1.3, rel=0.06)
        assert ratio.clear
    for ratio in comparison.of("tpot_p50"):
        assert ratio.ratio == pytest.approx(1.1, rel=0.06)
    overall = next(one for one in comparison.overall if one.metric.name == "ttft_p50")
    ratios = [one.ratio for one in comparison.of("ttft_p50")]
    assert overall.conditions == 6
    assert overall.ratio == pytest.approx(math.exp(np.mean(np.log(ratios))))
    assert overall.smallest.ratio == min(ratios)
    assert overall.largest.ratio == max(ratios)
    assert overall.low < overall.ratio < overall.high


def test_the_same_data_give_the_same_numbers_whatever_else_is_asked(results, comparison):
    alone = compare(Study(results, "demo"), [one for one in METRICS if one.name == "e2e_p99"])
    assert alone
    assert [(one.low, one.high) for one in alone.ratios] == [(one.low, one.high) for one in comparison.of("e2e_p99")]


def test_unpaired_repeats_are_left_out_and_one_launch_is_said(comparison):
    key = condition(comparison, "long, concurrency 1")  # its second repeat failed on shared-cpu
    (ratio,) = comparison.of("ttft_p50", key)
    assert (ratio.launches, ratio.base_launches) == (1, 1)
    (rate,) = comparison.of("achieved_rps", key)
    assert (rate.low, rate.high) == (None, None)  # one number on each side has no spread
    assert any("single launch" in note for note in comparison.notes)
    assert ratio.unpaired == 1
    assert any(note.startswith("1 measured cell has no partner") for note in comparison.notes)


def test_flagged_cells_are_counted(comparison):
    (flagged,) = comparison.of("ttft_p50", condition(comparison, "long, rate 4/s"))
    (clean,) = comparison.of("ttft_p50", condition(comparison, "short, rate 4/s"))
    assert (flagged.flagged, flagged.base_flagged, clean.flagged) == (1, 0, 0)
    assert any(note.startswith("1 of the compared cells is flagged") for note in comparison.notes)


def test_a_p99_of_too_few_requests_is_marked(tmp_path):
    synthetic.make_results(tmp_path, requests=367)
    merge.merge(tmp_path / "results")
    found = compare(Study(tmp_path / "results", "demo"))
    assert found
    assert not any(ratio.supported for ratio in found.of("ttft_p99"))
    assert all(ratio.supported for ratio in found.of("ttft_p50"))
    assert any("a p99 needs 368 answered requests" in note for note in found.notes)


def test_the_instruments_error_is_held_against_the_difference(comparison):
    for ratio in comparison.of("ttft_p50"):
        assert ratio.instrument_s == 1.5e-4
        assert not ratio.within_instrument
    assert all(ratio.instrument_s is None for ratio in comparison.of("tpot_p50"))


def test_goodput_zero_on_the_baseline_has_no_ratio(results, tmp_path):
    plan = read_json(results / PLANS)
    plan["study"]["slo"] = {"impossible": {"ttft_s": 0.0}}
    before = read_json(results / PLANS)
    write_json(results / PLANS, plan)
    merge.merge(results)
    study = Study(results, "demo")
    found = compare(study, [one for one in study.metrics if one.name.startswith("goodput")])
    write_json(results / PLANS, before)
    merge.merge(results)
    assert found
    assert {(one.ratio, one.low, one.value) for one in found.ratios} == {(None, None, 0.0)}
    assert found.overall == []


def test_another_factor_than_the_platform(results):
    plan = read_json(results / PLANS)
    before = read_json(results / PLANS)
    plan["study"]["compare"] = {"factor": "prompts", "baseline": "short"}
    write_json(results / PLANS, plan)
    merge.merge(results)
    found = compare(Study(results, "demo"))
    write_json(results / PLANS, before)
    merge.merge(results)
    assert found
    assert found.factor == "prompts"
    assert found.levels[0] == "short"
    ratio = found.of("ttft_p50", condition(found, "own-cpu, rate 4/s"), "long")[0]
    assert ratio.ratio == pytest.approx(4, rel=0.1)
    assert ratio.paired


def test_an_unknown_study_is_said(results):
    with pytest.raises(UserError, match="holds no study 'nothing'; it holds demo"):
        Study(results, "nothing")


def test_the_quick_bootstrap_is_the_bootstrap():
    """Against drawing n values with replacement for real."""
    values = np.sort(np.random.default_rng(1).lognormal(size=37))
    rng = np.random.default_rng(2)
    for quantile in (0.5, 0.9, 0.99, 0.25):
        slow = np.quantile(rng.choice(values, (20_000, 37)), quantile, axis=1)
        quick = resample_quantile(values, quantile, 20_000, rng)
        probabilities = [0.05, 0.25, 0.5, 0.75, 0.95]
        spread = np.quantile(slow, 0.95) - np.quantile(slow, 0.05)
        assert np.abs(np.quantile(slow, probabilities) - np.quantile(quick, probabilities)).max() < 0.06 * spread


def test_the_quick_bootstrap_of_few_values():
    rng = np.random.default_rng(0)
    assert resample_quantile(np.array([7.0]), 0.99, 5, rng).tolist() == [7.0] * 5
    two = resample_quantile(np.array([1.0, 3.0]), 0.5, 4000, rng)
    assert sorted(set(two)) == [1, 2, 3]  # both 1, one of each, both 3
    assert np.mean(two == 2) == pytest.approx(0.5, abs=0.03)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """Ratio 1.2 of two medians, many launches: coverage of the interval near 95 %."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        sides = []
        for factor in (1.0, 1.2):
            launches = [np.sort(factor * np.exp(rng.normal(0, 0.02) + rng.normal(0, 0.1, 60))) for _ in range(8)]
            chosen = rng.integers(8, size=(400, 8))
            drawn = np.empty(chosen.shape)
            for index, launch in enumerate(launches):
                slots = chosen == index
                drawn[slots] = resample_quantile(launch, 0.5, int(slots.sum()), rng)
            sides.append(drawn.mean(axis=1))
        low, high = interval(sides[1] / sides[0])
        covered += low <= 1.2 <= high
    assert 0.88 <= covered / 200 <= 1.0


def test_words_of_conditions_and_levels():
    assert label({"prompts": "chat", "rate": 4.0, "concurrency": None}) == "chat, rate 4/s"
    assert label({"tp": 2, "concurrency": 64, "prefix_cache": True}) == "tp 2, concurrency 64, prefix_cache on"
    assert label({}) == "everything"
    assert [level_text(level) for level in (True, 2, 0.5, "x", {"a": 1})] == ["on", "2", "0.5", "x", '{"a":1}']

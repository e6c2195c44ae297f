"""Ratios to the baseline: numbers by hand, the known truth of the made-up results, and what forbids a verdict."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from servegauge.base.errors import UserError
from servegauge.base.files import read_json, write_json
from servegauge.compare.compare import compare
from servegauge.compare.results import EXPLORATORY, Comparison
from servegauge.compare.sentences import primary_sentences, sentence, words
from servegauge.compare.tables import comparison_rows
from servegauge.compare.verdicts import (
    BELOW_INSTRUMENT,
    EQUAL,
    FASTER,
    NOT_COMPARABLE,
    NOT_JUDGED,
    SLOWER,
    SLOWER_WITHIN,
    UNDECIDED,
)
from servegauge.contract.metric import PRIMARY, TABLE
from servegauge.dataset import merge
from servegauge.dataset.study_view import METRICS, Study, label, level_text
from tests import synthetic
from tests.simulated_studies import Setting, SimulatedStudy, simulated

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


def drawn(seed: int = 1, **setting) -> SimulatedStudy:
    return simulated(np.random.default_rng(seed), Setting(**setting))


def judged(study: Study) -> Comparison:
    found = compare(study)
    assert found
    return found


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


def test_a_ratio_is_the_geometric_mean_over_launches_divided_by_the_baselines(comparison):
    key = condition(comparison, "short, rate 4/s")
    rows = [row for row in comparison.study.ok if row["prompts"] == "short" and row["rate_rps"] == 4]
    for metric in ("ttft_p50", "tpot_p99", "ttft_scheduled_p99", "output_tokens_per_s"):
        column = next(one.column for one in METRICS if one.name == metric)
        means = {
            platform: math.sqrt(math.prod(row[column] for row in rows if row["platform"] == platform))
            for platform in ("own-cpu", "shared-cpu")
        }
        (ratio,) = comparison.of(metric, key)
        assert ratio.ratio == pytest.approx(means["shared-cpu"] / means["own-cpu"])
        assert ratio.ratio == pytest.approx(ratio.value / ratio.base_value)
        assert (ratio.launches, ratio.base_launches, ratio.paired, ratio.requests) == (2, 2, True, 400)


def test_the_known_truth_is_found(comparison):
    """TTFT x 1.3 and TPOT x 1.1, each launch off by about 1 %: a ratio of two means of two is off by about 1 %."""
    for ratio in comparison.of("ttft_p50"):
        assert ratio.ratio == pytest.approx(1.3, rel=0.06)
    for ratio in comparison.of("tpot_p50"):
        assert ratio.ratio == pytest.approx(1.1, rel=0.06)


def test_two_repeats_have_intervals_and_no_verdict_and_the_study_is_a_demonstration(comparison):
    (ratio,) = comparison.of("ttft_p50", condition(comparison, "short, rate 4/s"))
    assert ratio.low < 1.3 < ratio.high
    assert (ratio.verdict, ratio.family, ratio.family_size, ratio.p_adjusted) == (NOT_JUDGED, TABLE, 0, None)
    assert comparison.demonstration
    assert comparison.notes[0].startswith("A demonstration: some conditions have 1 repeat of a side")


def test_unpaired_repeats_are_left_out_and_one_launch_has_no_interval(comparison):
    key = condition(comparison, "long, concurrency 1")  # its second repeat failed on shared-cpu
    (ratio,) = comparison.of("ttft_p50", key)
    assert (ratio.launches, ratio.base_launches, ratio.low, ratio.verdict) == (1, 1, None, NOT_JUDGED)
    assert ratio.unpaired == 1
    assert any(note.startswith("1 measured cell has no partner") for note in comparison.notes)


def test_flagged_cells_are_counted_and_named(comparison):
    (flagged,) = comparison.of("ttft_p50", condition(comparison, "long, rate 4/s"))
    (clean,) = comparison.of("ttft_p50", condition(comparison, "short, rate 4/s"))
    assert (flagged.flagged, flagged.base_flagged, flagged.flags) == (1, 0, ("errors",))
    assert (clean.flagged, clean.flags) == (0, ())
    assert any(note.startswith("1 of the compared cells is flagged") for note in comparison.notes)


def test_failed_requests_make_latencies_incomparable_and_a_p99_infinite(comparison):
    key = condition(comparison, "long, rate 4/s")  # one cell of the other platform lost 20 of 400 requests
    for metric in ("ttft_p50", "ttft_p99", "tpot_p50", "e2e_p99"):
        (ratio,) = comparison.of(metric, key)
        assert ratio.verdict == NOT_COMPARABLE
        assert ratio.reason == "97.5 % of requests were answered, 100.0 % on the baseline"
        assert (ratio.ratio is None) == metric.endswith("p99")
    (rate,) = comparison.of("output_tokens_per_s", key)
    assert (
        rate.verdict == NOT_JUDGED
    )  # of an open loop, tokens that were not answered are tokens lost: only few repeats


def test_a_p99_of_too_few_requests_is_marked(tmp_path):
    synthetic.make_results(tmp_path, requests=367)
    merge.merge(tmp_path / "results")
    found = judged(Study(tmp_path / "results", "demo"))
    assert not any(ratio.supported for ratio in found.of("ttft_p99"))
    assert all(ratio.supported for ratio in found.of("ttft_p50"))
    assert any("too few answered requests (a p99 takes 368)" in note for note in found.notes)


def test_the_instruments_error_stands_beside_the_difference(comparison):
    for ratio in comparison.of("ttft_p50"):
        assert ratio.instrument_s == 1.5e-4
        assert not ratio.within_instrument
    assert all(ratio.instrument_s is None for ratio in comparison.of("tpot_p50"))


def test_goodput_zero_has_no_ratio(results):
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
    assert {one.verdict for one in found.ratios} == {NOT_COMPARABLE}
    assert "not above 0" in found.ratios[0].reason
    assert found.overall == []


def test_another_factor_than_the_platform_with_a_margin_and_primary_metrics_of_its_own(results):
    before = read_json(results / PLANS)
    plan = read_json(results / PLANS)
    plan["study"]["compare"] = {"factor": "prompts", "baseline": "short", "margin": 0.05, "primary": ["e2e_p99"]}
    write_json(results / PLANS, plan)
    merge.merge(results)
    found = judged(Study(results, "demo"))
    plan["study"]["compare"]["primary"] = ["ttft"]
    write_json(results / PLANS, plan)
    merge.merge(results)
    with pytest.raises(UserError, match=r"compare.primary names 'ttft'; there are ttft_p50, .* Did you mean"):
        compare(Study(results, "demo"))
    write_json(results / PLANS, before)
    merge.merge(results)
    assert (found.factor, found.levels[0], found.margin, found.primary) == ("prompts", "short", 0.05, ["e2e_p99"])
    ratio = found.of("ttft_p50", condition(found, "own-cpu, rate 4/s"), "long")[0]
    assert ratio.ratio == pytest.approx(4, rel=0.1)
    assert ratio.paired
    assert {one.metric.name for one in found.overall if one.family == PRIMARY} == {"e2e_p99"}


def test_an_unknown_study_is_said(results):
    with pytest.raises(UserError, match="holds no study 'nothing'; it holds demo"):
        Study(results, "nothing")


# -- verdicts, families -------------------------------------------------------


def test_every_question_is_in_one_family_and_families_are_counted():
    found = judged(drawn(repeats=3))
    assert found.families == {PRIMARY: 3, TABLE: 36, EXPLORATORY: 3}
    assert {one.metric.name for one in found.overall if one.family == PRIMARY} == set(found.primary)
    assert {one.family for one in found.ratios} == {TABLE}
    for one in (*found.overall, *found.ratios):
        assert one.p_adjusted >= one.p - 1e-12
        assert one.p_equal_adjusted >= one.p_equal - 1e-12


def test_what_is_shown_does_not_change_what_is_corrected():
    study = drawn(repeats=3)
    all_of_it, part = judged(study), compare(study, [study.metrics[0]])
    assert part
    assert part.ratios == all_of_it.of("ttft_p50")
    assert part.families == all_of_it.families


@pytest.mark.parametrize(
    ("truth", "deviation", "verdict"),
    [
        (1.10, 0.005, SLOWER),
        (0.90, 0.005, FASTER),
        (1.0, 0.001, EQUAL),
        (1.008, 0.0005, SLOWER_WITHIN),
        (1.0, 0.1, UNDECIDED),
    ],
)
def test_verdicts(truth, deviation, verdict):
    study = drawn(repeats=8, truth=truth, deviation=deviation)
    found = judged(study)
    latencies = [one for one in found.overall if not one.metric.more_is_better]
    assert {one.verdict for one in latencies} == {verdict}
    throughput = next(one for one in found.overall if one.metric.more_is_better)
    turned = {SLOWER: FASTER, FASTER: SLOWER, SLOWER_WITHIN: "faster but within the margin"}
    assert throughput.verdict == turned.get(verdict, verdict)


def test_a_difference_inside_the_instruments_error_is_below_it():
    study = drawn(repeats=8, truth=1.05, deviation=0.001)
    for row in study.cells:
        row["instrument_ttft_p50_error_s"] = -0.06  # values are about 1 s
    found = judged(study)
    assert {one.verdict for one in found.of("ttft_p50")} == {BELOW_INSTRUMENT}
    assert {one.verdict for one in found.of("tpot_p50")} == {SLOWER}
    overall = next(one for one in found.overall if one.metric.name == "ttft_p50")
    assert overall.verdict == BELOW_INSTRUMENT
    assert "not larger than the instrument's own error" in sentence(found, overall)


def with_flag(study: SimulatedStudy, flag: str, prompts: str) -> SimulatedStudy:
    for row in study.cells:
        if row["prompts"] == prompts and row["platform"] == "other":
            row["flags"] = [flag]
    return study


def test_a_condition_whose_queue_grew_leaves_latency_verdicts_and_the_mean():
    found = judged(with_flag(drawn(repeats=4, truth=1.1, deviation=0.002), "not_steady", "prompts3"))
    key = condition(found, "prompts3")
    for metric in ("ttft_p50", "e2e_p99"):
        (ratio,) = found.of(metric, key)
        assert (ratio.verdict, ratio.reason) == (NOT_JUDGED, "not_steady in 4 of 8 cells")
        overall = next(one for one in found.overall if one.metric.name == metric)
        assert (overall.conditions, overall.left_out) == (5, (key,))
    assert found.of("output_tokens_per_s", key)[0].verdict != NOT_JUDGED
    assert found.families[TABLE] == 36 - 5


def test_a_flag_of_the_generator_forbids_every_verdict_and_a_mere_doubt_none():
    found = judged(with_flag(drawn(repeats=4, truth=1.1, deviation=0.002), "generator_limited", "prompts3"))
    assert {one.verdict for one in found.ratios if one.condition == condition(found, "prompts3")} == {NOT_JUDGED}
    found = judged(with_flag(drawn(repeats=4, truth=1.1, deviation=0.002), "cpu_stolen", "prompts3"))
    assert NOT_JUDGED not in {one.verdict for one in found.ratios}


def test_other_achieved_rates_are_another_load_in_an_open_loop_and_a_result_in_a_closed_one():
    study = drawn(repeats=4, deviation=0.002)
    for row in study.cells:
        if row["prompts"] in ("prompts1", "prompts2") and row["platform"] == "other":
            row["achieved_rps"] = 3.9
        if row["prompts"] == "prompts2":
            row |= {"rate_rps": None, "concurrency": 4}
    found = judged(study)
    (opened,) = found.of("ttft_p50", condition(found, "prompts1"))
    assert (opened.verdict, opened.reason) == (
        NOT_COMPARABLE,
        "3.9 requests/s were achieved, 4 on the baseline",
    )
    (closed,) = found.of("ttft_p50", condition(found, "prompts2"))
    assert closed.verdict == EQUAL
    assert any(note.startswith("1 of 6 conditions did not carry the same load") for note in found.notes)


def test_a_censored_statistic_is_infinite_and_has_no_ratio():
    study = drawn(repeats=4, deviation=0.002)
    for row in study.cells:
        row["censored"] = ["e2e_p99"] if (row["prompts"], row["platform"]) == ("prompts1", "other") else []
    found = judged(study)
    (ratio,) = found.of("e2e_p99", condition(found, "prompts1"))
    assert (ratio.ratio, ratio.verdict) == (None, NOT_COMPARABLE)
    assert "have no finite value" in ratio.reason
    assert found.of("e2e_p99", condition(found, "prompts2"))[0].verdict != NOT_COMPARABLE


def test_two_measuring_protocols_are_never_compared():
    study = drawn(repeats=4, deviation=0.002)
    for row in study.cells:
        row["protocol"] = 1 if (row["prompts"], row["repeat"]) == ("prompts1", 1) else 2
    found = judged(study)
    key = condition(found, "prompts1")
    assert {one.verdict for one in found.ratios if one.condition == key} == {NOT_COMPARABLE}
    assert "different protocols, 1 and 2" in found.of("output_tokens_per_s", key)[0].reason
    assert NOT_COMPARABLE not in {one.verdict for one in found.ratios if one.condition != key}


def test_launches_with_nothing_in_common_are_compared_unpaired():
    found = judged(drawn(repeats=4, paired=False, truth=1.3, deviation=0.01))
    assert {(one.paired, one.pairs, one.unpaired) for one in found.ratios} == {(False, 4, 0)}
    assert {one.verdict for one in found.overall if not one.metric.more_is_better} == {SLOWER}


def test_cells_of_a_launch_that_two_servers_measured_are_said():
    study = drawn(repeats=3)
    study.cells[0]["attempt"] = 1  # a dataset of before there was the column `server`
    assert any(note.startswith("1 launch was measured by several servers") for note in judged(study).notes)


def test_a_launch_of_two_servers_is_one_repeat_whose_cells_scatter_as_servers_do():
    """Luck of a server is 3 %: a repeat of two servers is still one of R, and the interval over conditions holds."""
    rng, covered, studies = np.random.default_rng(7), 0, 200
    for _ in range(studies):
        study = simulated(rng, Setting(repeats=4, deviation=0.03, truth=1.05))
        luck = math.exp(rng.normal(0, 0.03 * math.sqrt(2)))  # another server's in the place of the first one's
        for row in study.cells:
            late = row["repeat"] == 2 and row["platform"] == "other" and int(row["prompts"][-1]) >= 3
            row["server"] = int(late)
            if late:
                row["e2e_p50_s"] *= luck
        (one,) = [one for one in judged(study).overall if one.metric.name == "e2e_p50"]
        assert one.pairs == 4
        covered += one.low <= 1.05 <= one.high
    assert abs(covered / studies - 0.95) <= 0.02 + 2 * math.sqrt(0.95 * 0.05 / studies)


# -- sentences ----------------------------------------------------------------


def test_metrics_that_are_not_judged_for_one_reason_share_their_sentence():
    found = judged(drawn(repeats=2, truth=1.1, deviation=0.001))
    primary = [one for one in found.overall if one.metric.name in found.primary]
    (said,) = primary_sentences(found, primary)
    assert said.startswith("TTFT p50, TPOT p50 and Output tokens on other over 6 conditions are not judged: 2 repeats")
    assert said.count("what was seen") == 1
    judged_ones = judged(drawn(repeats=5, truth=1.1, deviation=0.001))
    primary = [one for one in judged_ones.overall if one.metric.name in judged_ones.primary]
    assert primary_sentences(judged_ones, primary) == [sentence(judged_ones, one) for one in primary], (
        "each has its own numbers"
    )


def test_a_difference_can_be_quoted():
    study = drawn(repeats=6, truth=1.06, deviation=0.005)
    for row in study.cells:
        row["instrument_ttft_p50_error_s"] = 3e-4
    found = judged(study)
    one = next(one for one in found.overall if one.metric.name == "ttft_p50")
    said = sentence(found, one)
    low, high = 100 * (one.low - 1), 100 * (one.high - 1)
    assert said == (
        f"TTFT p50 is {100 * (one.ratio - 1):.1f} % slower on other over 6 conditions (95 % interval {low:.1f} to "
        f"{high:.1f} %, 6 launches a side, Holm over 3 primary metrics; instrument error 0.300 ms)."
    )
    throughput = next(one for one in found.overall if one.metric.name == "output_tokens_per_s")
    assert "% higher on other" in sentence(found, throughput)
    assert words(one, found.margin) == f"{100 * (one.ratio - 1):.1f} % slower"


def test_a_gain_is_told_in_its_own_direction():
    found = judged(drawn(repeats=6, truth=0.9, deviation=0.005))
    one = next(one for one in found.overall if one.metric.name == "tpot_p50")
    low, high = 100 * (1 - one.high), 100 * (1 - one.low)
    assert f"% faster on other over 6 conditions (95 % interval {low:.1f} to {high:.1f} %" in sentence(found, one)


def test_what_is_not_a_difference_can_be_quoted_too():
    equal = judged(drawn(repeats=6, deviation=0.001))
    one = equal.overall[0]
    assert sentence(equal, one).startswith("TTFT p50 on other over 6 conditions equals base within 2 % (")
    open_ = judged(drawn(repeats=4, deviation=0.05))
    one = next(one for one in open_.overall if one.metric.name == "tpot_p50")
    assert f"about {one.more_repeats} more repeats would tell" in sentence(open_, one)
    few = judged(drawn(repeats=2))
    assert "is not judged: 2 repeats give an interval, a verdict takes 3" in sentence(few, few.overall[0])


def test_words_of_conditions_and_levels():
    assert label({"prompts": "chat", "rate": 4.0, "concurrency": None}) == "chat, rate 4/s"
    assert label({"tp": 2, "concurrency": 64, "prefix_cache": True}) == "tp 2, concurrency 64, prefix_cache on"
    assert label({}) == "everything"
    assert [level_text(level) for level in (True, 2, 0.5, "x", {"a": 1})] == ["on", "2", "0.5", "x", '{"a":1}']


# -- the baseline against itself -----------------------------------------------


def with_again(truth: float) -> SimulatedStudy:
    """A study without any difference whose baseline has a second name, `truth` times as slow."""
    study, other = drawn(repeats=5, deviation=0.003), drawn(seed=2, repeats=5, deviation=0.003, truth=truth)
    study.again = [
        {**row, "axes": {**row["axes"], "platform": "base"}, "platform": "base", "launch": f"{row['launch']}-again"}
        for row in other.cells
        if row["platform"] == "other"
    ]
    return study


def test_the_baseline_against_itself_is_judged_apart_and_shows_nothing():
    with_it, without = judged(with_again(1.0)), judged(drawn(repeats=5, deviation=0.003))
    assert with_it.again
    assert with_it.again.levels == ["base", "base.again"]
    assert len(with_it.again.ratios) == 36
    assert with_it.ratios == without.ratios
    assert with_it.families == without.families
    assert not {one.verdict for one in with_it.again.ratios} & {SLOWER, FASTER}
    assert with_it.notes[-1] == (
        "A/A: the baseline was measured against itself, and no difference was found in 39 comparisons."
    )


def test_a_baseline_that_differs_from_itself_is_said_first():
    found = judged(with_again(1.08))
    assert found.notes[0].startswith("A/A: the baseline differs from itself (TTFT p50, TPOT p50")
    rows = list(comparison_rows(found))
    assert {row["level"] for row in rows} == {"other", "base.again"}

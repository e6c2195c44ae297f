"""Platform beside platform: probes judged over processes, held against numbers whose truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from servegauge.compare import probe_effects
from servegauge.compare.effect import unpaired_effect
from servegauge.compare.probe_effects import FEWEST_PROCESSES, one_each, probe_ratios
from servegauge.compare.verdicts import EQUAL, FASTER, NOT_JUDGED, SLOWER, UNDECIDED
from servegauge.contract import tables
from servegauge.contract.comparison_tables import PROBE_COMPARISON

CELLS = [{"platform": platform, "model": "m", "tp": tp} for platform in ("bare", "vgpu") for tp in (1, 2)]
SCATTER = (0.0, 0.002, -0.003, 0.001, -0.001)  # of the logarithms of five processes


def rows(
    platform: str, probe: str, metric: str, value: float | None, unit: str = "GB/s", processes: int = 5, **variant
):
    """Rows of the probes table: a number's processes, around `value`."""
    return [
        {
            "platform": platform, "probe": probe, "variant": json.dumps(variant), "metric": metric, "unit": unit,
            "value": None if value is None else value * math.exp(SCATTER[process]), "process": process,
            "status": "skipped" if value is None else "ok", "started_utc": f"2026-11-21T10:{process:02}",
        }
        for process in range(processes)
    ]  # fmt: skip


def pair(processes: int = 5) -> list[dict]:
    reduce = {"operation": "all_reduce", "size_bytes": 65536, "ranks": 2}
    product = {"operation": "gemm", "dtype": "bf16", "shape": "8192x8192x8192"}
    peers = {"operation": "copy", "direction": "peer-to-peer", "path": "0-1"}
    asked = [
        ("bare", "collectives", "time_us", 10.0, "us", reduce), ("vgpu", "collectives", "time_us", 11.0, "us", reduce),
        ("bare", "collectives", "busbw_gb_s", 14.0, "GB/s", reduce),
        ("vgpu", "collectives", "busbw_gb_s", 1.26, "GB/s", reduce),
        ("bare", "gemm", "tflops", 700.0, "TFLOP/s", product), ("vgpu", "gemm", "tflops", 701.0, "TFLOP/s", product),
        ("bare", "dispatch", "time_us", 4.0, "us", {"operation": "kernel launch"}),
        ("vgpu", "dispatch", "time_us", 6.0, "us", {"operation": "kernel launch"}),
        ("bare", "memcpy", "bandwidth_gb_s", 300.0, "GB/s", peers),
        ("vgpu", "memcpy", "bandwidth_gb_s", None, "GB/s", peers),
    ]  # fmt: skip
    return [
        row for platform, probe, metric, value, unit, about in asked
        for row in rows(platform, probe, metric, value, unit, processes, **about)
    ]  # fmt: skip


def test_what_differs_is_said_with_its_interval_and_who_pays():
    found = probe_ratios(pair(), "bare", CELLS)
    assert [one.probe for one in found] == ["collectives", "dispatch", "gemm"], "a skipped probe has no ratio"
    reduce, launch, product = found
    assert reduce.metric.name == "busbw_gb_s", "of metrics that follow from each other one is compared"
    assert reduce.ratio == pytest.approx(0.09)
    assert (reduce.verdict, launch.verdict, product.verdict) == (SLOWER, SLOWER, EQUAL)
    assert reduce.sentence(0.02).startswith(
        "collectives, all_reduce, 65536 bytes, 2 ranks (busbw_gb_s) on vgpu: 91.0 % lower "
        "(95 % interval 91.0 to 91.0 %, 5 processes a side, Holm over 3 numbers of the probes), "
        "and TP=2 in decode (TPOT) pays it"
    )
    assert "50.0 % slower" in launch.sentence(0.02)
    assert "short prompts" in launch.pays
    assert product.sentence(0.02).startswith("gemm, gemm, bf16, 8192x8192x8192 (tflops) on vgpu: equal within 2 % (")
    (gain, *_) = probe_ratios(pair(), "vgpu", CELLS)
    assert gain.verdict == FASTER
    assert "pays" not in gain.sentence(0.02), "nobody pays for a gain"


def test_the_numbers_are_those_of_the_functions_that_cells_are_compared_by():
    base, other = [10.0, 10.2, 9.9, 10.1, 10.0], [11.0, 11.3, 10.8, 11.1, 11.0, 10.9]
    made = [
        {**rows(name, "dispatch", "time_us", 1.0, "us", 1, operation="x")[0], "value": value, "process": process}
        for name, side in (("bare", base), ("vgpu", other))
        for process, value in enumerate(side)
    ]
    (one,) = probe_ratios(made, "bare")
    effect = unpaired_effect(base, other)
    assert (one.ratio, one.low, one.high, one.p, one.p_equal) == (
        effect.ratio, effect.low, effect.high, effect.p, effect.p_equal,
    )  # fmt: skip
    assert (one.base_processes, one.processes, one.pairs) == (5, 6, 5)


@pytest.mark.parametrize("processes", [1, 2, FEWEST_PROCESSES - 1])
def test_fewer_than_five_processes_a_side_give_no_verdict(processes):
    found = probe_ratios(pair(processes), "bare", CELLS)
    assert {one.verdict for one in found} == {NOT_JUDGED}
    assert all(f"{processes} process" in one.reason and "5" in one.reason for one in found)
    assert probe_effects.sentences(found, 0.02) == []
    assert (found[0].low is None) == (processes == 1), "one process says nothing of how processes scatter"
    mixed = [row for row in pair() if row["platform"] == "bare"] + [
        row for row in pair(processes) if row["platform"] == "vgpu"
    ]
    assert {one.verdict for one in probe_ratios(mixed, "bare")} == {NOT_JUDGED}, "the smaller side counts"


def test_results_of_before_there_were_processes_are_one_process():
    old = [{name: value for name, value in row.items() if name != "process"} for row in pair(1)]
    assert {one.verdict for one in probe_ratios(old, "bare")} == {NOT_JUDGED}


def test_a_platform_against_itself_is_hardly_ever_said_to_differ():
    """A/A: 40 numbers, processes that deviate by 2 %: a claim in at most 5 % of studies, and two standard errors.

    Two thirds of a probe's luck is its process's, whatever it measures, as allocators and clocks make it.
    """
    rng, studies, claimed, seen, covered = np.random.default_rng(20261126), 150, 0, 0, 0
    for _ in range(studies):
        made = []
        for platform in ("bare", "vgpu"):
            for process in range(5):
                own = rng.normal()
                for number in range(40):
                    value = 10 * math.exp(0.02 * (math.sqrt(2 / 3) * own + math.sqrt(1 / 3) * rng.normal()))
                    made += [{**rows(platform, "dispatch", "time_us", value, "us", 1, operation=f"call {number}")[0],
                              "value": value, "process": process}]  # fmt: skip
        found = probe_ratios(made, "bare")
        claimed += any(one.verdict not in (UNDECIDED, EQUAL) for one in found)
        seen += len(found)
        covered += sum(one.low <= 1 <= one.high for one in found)
    assert claimed / studies <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies)
    assert 0.90 <= covered / seen <= 0.99
    assert seen == 40 * studies


def test_ten_percent_are_seen_through_processes_that_deviate_by_one():
    rng = np.random.default_rng(20261126)
    found = 0
    for _ in range(50):
        made = []
        for platform, factor in (("bare", 1.0), ("vgpu", 1.1)):
            for number in range(20):
                for process in range(5):
                    (row,) = rows(platform, "dispatch", "time_us", 1.0, "us", 1, operation=f"call {number}")
                    made.append({**row, "value": 4 * factor * math.exp(rng.normal(0, 0.01)), "process": process})
        found += sum(one.verdict == SLOWER for one in probe_ratios(made, "bare"))
    assert found / (50 * 20) >= 0.9


def test_only_losses_that_somebody_pays_become_sentences():
    def said(cells, baseline="bare"):
        return [line.partition(",")[0] for line in probe_effects.sentences(probe_ratios(pair(), baseline, cells), 0.02)]

    assert said(CELLS) == ["collectives", "dispatch"], "an equal product costs nothing"
    assert said([cell | {"tp": 1} for cell in CELLS]) == ["dispatch"], "nobody communicates"
    assert said(CELLS, "vgpu") == [], "bare metal loses nothing"


def test_the_latest_measurement_counts():
    older = [row | {"started_utc": "2025", "value": 14.0} for row in pair() if row["metric"] == "busbw_gb_s"]
    (worst, *_) = probe_ratios([*pair(), *older], "bare")
    assert worst.ratio == pytest.approx(0.09)


def test_a_ceiling_is_the_median_over_processes():
    numbers = {(row["platform"], row["probe"], row["metric"]): row for row in one_each(pair())}
    assert len(numbers) == 10
    assert numbers["bare", "gemm", "tflops"]["value"] == pytest.approx(700.0)
    assert numbers["vgpu", "memcpy", "bandwidth_gb_s"]["status"] == "skipped"


def test_rows_fit_their_table():
    made = list(probe_effects.probe_rows("s", probe_ratios(pair(), "bare", CELLS), 0.02))
    table = tables.from_rows(made, PROBE_COMPARISON)
    assert table.num_rows == 3
    assert set(made[0]) == set(PROBE_COMPARISON.names)


@pytest.mark.parametrize(
    ("probe", "variant", "words"),
    [
        ("model_gemm", {"model": "m", "tokens": 8, "operation": "qkv"}, "every decoded token (TPOT)"),
        ("model_gemm", {"model": "m", "tokens": 4096, "operation": "qkv"}, "every prefill (TTFT)"),
        ("model_gemm", {"model": "other", "tokens": 8, "operation": "qkv"}, None),
        ("gemm", {"operation": "gemv"}, "every decoded token (TPOT)"),
        ("attention", {"operation": "prefill"}, "every prefill (TTFT)"),
        ("collectives", {"operation": "all_reduce", "size_bytes": 64 << 20}, "TP=2 in prefill (TTFT)"),
        ("collectives", {"operation": "all_to_all", "size_bytes": 4096}, None),
        ("collectives", {"operation": "send_recv", "size_bytes": 4096}, None),
        ("memcpy", {"operation": "copy", "direction": "peer-to-peer"}, "TP=2"),
        ("storage", {"operation": "read"}, "each server's start"),
    ],
)
def test_who_pays(probe, variant, words):
    assert probe_effects.payer(probe, variant, CELLS) == words
    assert probe_effects.payer(probe, variant, []) is None

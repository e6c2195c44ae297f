"""Known answers: a schedule written by hand gives exactly the metrics computed by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegauge.base.errors import UserError
from servegauge.contract import metrics
from servegauge.contract.cell_tables import REQUESTS, REQUESTS_RAW
from servegauge.contract.tables import SUMMARY, conform, from_rows

MS = 1_000_000


def row(number: int, **fields: object) -> dict[str, object]:
    """A request sent 1 ms late at 0, 1, 2, ... s: tokens at 100, 120, 140 ms after it was sent."""
    start = number * 1000 * MS
    sent = start + MS
    chunks = [sent + 100 * MS, sent + 120 * MS, sent + 140 * MS]
    return {
        "cell": "c", "launch": "l", "request": number, "phase": "window", "instance": 0, "worker": 0,
        "scheduled_ns": start, "sent_ns": sent, "first_byte_ns": chunks[0], "first_token_ns": chunks[0],
        "first_answer_ns": chunks[0], "last_ns": chunks[-1], "end_ns": chunks[-1] + 9 * MS,
        "chunk_ns": chunks, "chunk_tokens": [1, 1, 1],
        "connection_reused": True, "http_status": 200, "status": "ok", "error": None, "finish_reason": "length",
        "prompt_tokens_asked": 10, "output_tokens_asked": 3, "prompt_tokens": 10, "output_tokens": 3,
        "tokens_source": "usage", "cached_tokens": None, "text_sha256": "00", **fields,
    }  # fmt: skip


def table(*rows: dict[str, object]):
    return from_rows(rows, REQUESTS_RAW)


def test_the_metrics_of_one_request_by_hand():
    derived = metrics.derive(table(row(0))).to_pylist()[0]
    assert derived["lateness_s"] == pytest.approx(0.001)
    assert derived["ttft_s"] == pytest.approx(0.100)
    assert derived["ttft_scheduled_s"] == pytest.approx(0.101)
    assert derived["e2e_s"] == pytest.approx(0.140)
    assert derived["e2e_scheduled_s"] == pytest.approx(0.141)
    assert derived["tpot_s"] == pytest.approx(0.020)


def test_tpot_counts_tokens_and_not_chunks():
    derived = metrics.derive(table(row(0, output_tokens=5, chunk_tokens=[1, 2, 2]))).to_pylist()[0]
    assert derived["tpot_s"] == pytest.approx(0.010)


@pytest.mark.parametrize(
    ("tokens", "source", "tpot_s"), [([4, 1, 4], "usage", 0.008), (None, "usage", None), (None, "chunks", 0.005)]
)
def test_tpot_is_over_the_tokens_after_the_first_chunk(tokens, source, tpot_s):
    given = row(0, output_tokens=9, chunk_tokens=tokens, tokens_source=source)
    assert metrics.derive(table(given))["tpot_s"].to_pylist() == [pytest.approx(tpot_s) if tpot_s else None]


def test_the_first_chunk_is_each_requests_own():
    rows = [row(0, chunk_tokens=None), row(1, output_tokens=7, chunk_tokens=[5, 1, 1]), row(2, chunk_tokens=[]), row(3)]
    derived = metrics.derive(table(*rows).slice(1))
    assert derived["tpot_s"].to_pylist() == [pytest.approx(0.020), None, pytest.approx(0.020)]


def test_an_answer_in_one_piece_has_no_gaps():
    whole = row(0, first_token_ns=None, first_answer_ns=None)
    assert metrics.values_of(metrics.derive(table(whole)), "itl").tolist() == []
    assert metrics.derive(table(whole)).to_pylist()[0]["e2e_s"] == pytest.approx(0.140)


def test_the_first_answer_token_comes_after_the_reasoning():
    derived = metrics.derive(table(row(0, first_answer_ns=131 * MS), row(1, first_answer_ns=None)))
    assert derived["ttfat_s"].to_pylist() == [pytest.approx(0.130), None]


@pytest.mark.parametrize("tokens", [0, 1, None])
def test_tpot_below_two_tokens_is_null(tokens):
    assert metrics.derive(table(row(0, output_tokens=tokens)))["tpot_s"].to_pylist() == [None]


def test_a_failed_request_has_lateness_and_no_latency():
    derived = metrics.derive(table(row(0, status="truncated"))).to_pylist()[0]
    assert derived["lateness_s"] == pytest.approx(0.001)
    assert [derived[name] for name in ("ttft_s", "ttft_scheduled_s", "e2e_s", "e2e_scheduled_s", "tpot_s")] == [
        None
    ] * 5


def test_a_request_that_was_never_sent_is_null_throughout():
    derived = metrics.derive(
        table(row(0, status="cancelled", sent_ns=None, first_token_ns=None, last_ns=None, chunk_ns=[]))
    )
    assert derived["lateness_s"].to_pylist() == [None]


def test_deriving_twice_changes_nothing_and_the_schema_is_the_datasets():
    once = metrics.derive(table(row(0), row(1, status="timeout")))
    assert metrics.derive(once).equals(once)
    assert conform(once, REQUESTS).schema == REQUESTS


def test_a_window_by_hand():
    rows = [row(0), row(1), row(2, status="http_error", chunk_ns=[], first_token_ns=None, last_ns=None), row(3)]
    summary = metrics.summarise(table(*rows), 4.0)
    assert set(summary) == {field.name for field in SUMMARY} | {"censored"}
    assert (summary["requests"], summary["requests_ok"], summary["error_share"]) == (4, 3, 0.25)
    assert summary["offered_rps"] == pytest.approx(1.0)
    assert summary["achieved_rps"] == pytest.approx(0.75)
    assert summary["input_tokens_per_s"] == pytest.approx(7.5)
    assert summary["output_tokens_per_s"] == pytest.approx(2.25)
    assert summary["success_share"] == pytest.approx(0.75)
    assert summary["ttft_p50_s"] == pytest.approx(0.1)
    assert summary["itl_p50_s"] == pytest.approx(0.02)
    assert summary["itl_p99_s"] is None
    assert {"ttft_p90", "ttft_p99", "itl_p99"} <= set(summary["censored"])
    assert not {"ttft_p50", "lateness_p99"} & set(summary["censored"])
    assert summary["ttft_p50_low_s"] is None
    assert summary["cached_tokens_share"] is None


def test_an_empty_window_is_null_and_not_zero():
    summary = metrics.summarise(table(), None)
    assert summary["requests"] == 0
    rest = {name: value for name, value in summary.items() if name not in ("requests", "requests_ok")}
    assert rest.pop("censored") == []
    assert set(rest.values()) == {None}


def test_rates_are_events_inside_the_window():
    """An answer of the ramp that ends in the window counts, one of the window that ends after it does not."""
    ramp = row(0, phase="ramp", scheduled_ns=-120 * MS, sent_ns=-120 * MS, first_token_ns=-20 * MS, last_ns=20 * MS,
               chunk_ns=[-20 * MS, 0, 20 * MS], end_ns=21 * MS)  # fmt: skip
    early = row(0, phase="ramp", scheduled_ns=-900 * MS, last_ns=-1, chunk_ns=[-3, -2, -1], first_token_ns=-3)
    late = row(3, first_token_ns=3_900 * MS, last_ns=4_100 * MS, chunk_ns=[3_900 * MS, 4_000 * MS, 4_100 * MS])
    tail = row(4, phase="tail", first_token_ns=3_950 * MS, last_ns=3_990 * MS)
    summary = metrics.summarise(table(ramp, early, row(1), row(2), late, tail, row(0, phase="warmup")), 4.0)
    assert summary["requests"] == 3
    assert summary["offered_rps"] == pytest.approx(3 / 4)
    assert summary["achieved_rps"] == pytest.approx(3 / 4)  # 1, 2 and the ramp's
    assert summary["output_tokens_per_s"] == pytest.approx((2 + 3 + 3 + 2) / 4)
    assert summary["input_tokens_per_s"] == pytest.approx(30 / 4)  # 1, 2 and the late one, whose prompt was computed
    assert metrics.goodput(table(ramp, row(1), late), {"e2e_s": 9.0}, 4.0) == {
        "requests_attained": 2, "attained_share": 1.0, "goodput_rps": 0.5,
    }  # fmt: skip


def test_tokens_of_chunks_that_do_not_tell_are_shared_among_them():
    silent = row(0, chunk_tokens=None, output_tokens=6)
    one = row(1, chunk_ns=[5 * MS], chunk_tokens=[3], first_token_ns=None, last_ns=5 * MS)
    unknown = row(2, output_tokens=None, chunk_tokens=None)
    assert metrics.summarise(table(silent, one, unknown), 0.125)["output_tokens_per_s"] == pytest.approx(7 / 0.125)
    assert metrics.summarise(table(unknown), 1.0)["output_tokens_per_s"] is None


def test_a_closed_loop_and_bursts_offer_no_rate_and_every_event_of_a_burst_counts():
    rows = table(row(0), row(1), row(9))
    assert metrics.summarise(rows, 4.0, "closed")["offered_rps"] is None
    burst = metrics.summarise(rows, 0.5, "burst")
    assert (burst["offered_rps"], burst["achieved_rps"]) == (None, 6.0)


def test_what_was_counted_until_the_last_answer_keeps_its_offered_rate():
    assert metrics.summarise(table(row(0), row(1), row(2)), 9.0, to_last_answer=True)["offered_rps"] == 1.0


@pytest.mark.parametrize(("failed", "is_null"), [(0, False), (1, False), (3, True), (200, True)])
def test_a_failed_request_is_larger_than_every_latency(failed, is_null):
    """300 requests: a p99 leaves out 2, so that with 3 failures it is unknown, though 297 others were fast."""
    rows = [row(number) for number in range(300 - failed)]
    rows += [row(number, status="timeout", first_token_ns=None, last_ns=None) for number in range(failed)]
    summary = metrics.summarise(table(*rows), 300.0)
    assert (summary["ttft_p99_s"] is None) == is_null
    assert ("ttft_p99" in summary["censored"]) == is_null
    assert (summary["ttft_p50_s"] is None) == (failed == 200)
    assert summary["ttft_mean_s"] == pytest.approx(0.1)


def test_a_quantile_with_infinite_values_is_numpys_with_them():
    rng = np.random.default_rng(3)
    for finite, infinite in ((5, 1), (40, 3), (400, 4), (9, 9)):
        ordered = np.sort(rng.random(finite))
        padded = np.concatenate([ordered, np.full(infinite, 1e300)])
        for share in (0.1, 0.5, 0.9, 0.99):
            value, _, _ = metrics.quantile(ordered, share, infinite)
            expected = np.quantile(padded, share)
            assert value is None if expected > 1 else value == pytest.approx(expected)


def test_gaps_are_within_requests_and_of_those_that_are_ok():
    rows = [row(0), row(1, chunk_ns=[5 * MS]), row(2, chunk_ns=[]), row(3, status="truncated"), row(4)]
    assert metrics.itl_s(table(*rows)) == pytest.approx([0.02] * 4)


@given(st.lists(st.lists(st.integers(0, 10**9), max_size=6), max_size=8))
def test_gaps_agree_with_the_plain_way(chunks):
    rows = [row(number, chunk_ns=stamps) for number, stamps in enumerate(chunks)]
    plain = [(after - before) / 1e9 for stamps in chunks for before, after in pairwise(stamps)]
    assert metrics.itl_s(table(*rows)) == pytest.approx(plain)


def test_the_window_ends_with_the_last_answer_and_leaves_the_warm_up_out():
    rows = table(row(0), row(7, phase="warmup"))
    assert metrics.window_s(rows) == pytest.approx(0.150)
    assert metrics.window_s(table()) is None


def test_goodput_counts_requests_that_meet_every_limit():
    rows = table(
        row(0), row(1, output_tokens=1), row(2, first_token_ns=2_900 * MS, last_ns=2_950 * MS), row(3, status="timeout")
    )
    limits = {"ttft_s": 0.2, "tpot_s": 0.05}
    assert metrics.goodput(rows, limits, 2.0) == {"requests_attained": 2, "attained_share": 0.5, "goodput_rps": 1.0}
    assert metrics.goodput(table(), limits, None)["goodput_rps"] is None


def test_goodput_with_an_unknown_limit_names_the_nearest():
    with pytest.raises(UserError, match="Did you mean 'ttft_s'"):
        metrics.goodput(table(row(0)), {"tftt_s": 1.0}, 1.0)


@pytest.mark.parametrize(("share", "count"), [(0.99, 368), (0.95, 72), (0.9, 36), (0.5, 6)])
def test_the_sample_that_a_quantile_needs(share, count):
    assert metrics.required_sample(share) == count
    assert None not in metrics.interval_ranks(count, share)
    assert None in metrics.interval_ranks(count - 1, share)


def test_ranks_of_a_median_as_in_the_tables():
    assert metrics.interval_ranks(100, 0.5) == (40, 61)  # Hahn and Meeker, Statistical Intervals, table A.15a


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_interval_covers_the_true_quantile(share):
    rng = np.random.default_rng(7)
    true = -np.log(1 - share)
    hits = 0
    for _ in range(400):
        _, low, high = metrics.quantile(np.sort(rng.exponential(size=60)), share)
        hits += (low is None or low <= true) and (high is None or true <= high)
    assert 0.93 <= hits / 400 <= 1.0


def test_cached_tokens_are_a_share_of_the_prompts_that_say_so():
    rows = table(row(0, cached_tokens=5), row(1, cached_tokens=0), row(2))
    assert metrics.cached_share(rows) == pytest.approx(0.25)

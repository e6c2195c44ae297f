"""The measured window: what is counted, against servers whose pace is known."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from servegauge.contract import metrics
from servegauge.contract.spec import Load
from servegauge.instrument.connection import InFlight
from servegauge.instrument.coordinator import LoadResult, run_load
from servegauge.instrument.job import LoadJob
from servegauge.instrument.ramp import ClosedRamp, OpenRamp
from servegauge.workloads.compile import workload_table
from servegauge.workloads.load_times import load_times
from servegauge.workloads.prompts import Prompt
from tests.unit.instrument_helpers import paced, rows_of

SEEDS = {"warmup": 1, "window": 2, "ramp": 3, "tail": 4}
MS = 1_000_000


def measure(
    load: Load, folder: Path, *server: str, tokens: int = 10, spare: int | None = None, **fields: Any
) -> tuple[LoadResult, pa.Table, dict[str, Any]]:
    """Put `load` on a paced server; `spare` requests of the tail are left in the workload, where it says so."""
    folder.mkdir(parents=True, exist_ok=True)
    times = load_times(load, SEEDS, Path(), tokens)
    if spare is not None:
        del times.tail[spare:]
    prompts = [Prompt(f"{number} word", None, 2, tokens) for number in range(sum(map(len, times.phases.values())))]
    pq.write_table(workload_table(times, prompts), folder / "workload.parquet")
    called = {name: fields.pop(name, None) for name in ("between", "on_window")}
    with paced(folder, *server) as running:
        job = LoadJob(
            [running.url],
            str(folder / "workload.parquet"),
            str(folder),
            "paced",
            load,
            phase="both" if load.warmup_requests else "window",
            window_s=times.window_s,
            cell="c",
            **fields,
        )
        result = run_load(job, **called)
    requests = metrics.derive(pq.read_table(result.requests))
    return result, requests, metrics.summarise(requests, result.window.duration_s, load.loop)


def closed(streams: int, requests: int, **fields: Any) -> Load:
    return Load(concurrency=streams, requests=requests, arrival={"process": "closed"}, **fields)


def test_a_slower_server_that_keeps_up_achieves_the_same_rate(tmp_path):
    """Answers of 0.65 s beside answers of 0.05 s; until today the slower one's rate was 13 % lower."""
    load = Load(rate_rps=40, requests=160, warmup_requests=4, arrival={"process": "constant"})
    _, _, fast = measure(load, tmp_path / "fast", "--first-s", "0.02", "--gap-s", "0.003")
    slow_result, _, slow = measure(load, tmp_path / "slow", "--first-s", "0.2", "--gap-s", "0.05")
    assert slow["e2e_p50_s"] > 10 * fast["e2e_p50_s"]
    assert slow["offered_rps"] == fast["offered_rps"] == pytest.approx(40)
    assert slow["achieved_rps"] / fast["achieved_rps"] == pytest.approx(1.0, abs=0.005)
    assert slow["output_tokens_per_s"] / fast["output_tokens_per_s"] == pytest.approx(1.0, abs=0.005)
    assert slow["requests"] == fast["requests"] == 160
    # The ramp lasted until answers came, the tail until the last request of the window was answered.
    assert slow_result.window.ramp_s > 0.65
    assert slow_result.window.tail_s == pytest.approx(0.65, abs=0.2)


def test_one_request_that_hangs_does_not_stretch_the_window(tmp_path):
    load = Load(rate_rps=40, requests=80, timeout_s=4.0)
    result, requests, summary = measure(
        load, tmp_path, "--first-s", "0.02", "--gap-s", "0.002", "--fault", "stall:every=90,after=2,stall_s=60",
    )  # fmt: skip
    assert result.counts == {"ok": 79, "timeout": 1}
    assert summary["window_s"] == pytest.approx(2.0, rel=0.4)
    assert summary["achieved_rps"] == pytest.approx(summary["offered_rps"], rel=0.05)
    assert summary["success_share"] == pytest.approx(79 / 80)
    assert "ttft_p99" in summary["censored"]
    # The load stayed on while the request hung.
    tail = [row for row in requests.to_pylist() if row["phase"] == "tail"]
    assert result.window.tail_s > 1.0
    assert max(row["scheduled_ns"] for row in tail) > (summary["window_s"] + 1.0) * 1e9


def test_two_per_cent_of_stalls_show_in_the_p99_of_64_streams(tmp_path):
    load = closed(64, 640, warmup_requests=8)
    pace = ("--first-s", "0.05", "--gap-s", "0.01")
    _, _, steady = measure(load, tmp_path / "steady", *pace)
    _, _, stalling = measure(load, tmp_path / "stalling", *pace, "--fault", "stall:every=50,after=3,stall_s=0.5")
    assert stalling["e2e_p99_s"] / steady["e2e_p99_s"] > 2
    assert stalling["e2e_p50_s"] / steady["e2e_p50_s"] == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("start", ["staggered", "together"])
def test_the_first_wave_of_a_closed_loop_is_not_counted(tmp_path, start):
    """32 streams on 16 slots: in the steady state each request waits for another; half of the first wave does not."""
    load = closed(32, 96, start=start, warmup_requests=4)
    result, requests, summary = measure(
        load, tmp_path, "--first-s", "0.1", "--gap-s", "0.01", "--slots", "16", expected_e2e_s=0.2
    )
    assert result.window.ramp_s > 0.19
    waited = np.sort(metrics.values_of(requests.filter(metrics.in_window(requests)), "ttft"))
    assert summary["requests"] == 96
    assert np.quantile(waited, 0.2) > 0.2  # its own 0.1 s, and at least half of another's 0.19 s
    first = [row["ttft_s"] for row in requests.to_pylist() if row["phase"] == "ramp" and row["ttft_s"]]
    assert min(first) < 0.15


@pytest.mark.parametrize(
    ("load", "spread_s"), [({}, 0.39 * 7 / 8), ({"think_s": 0.4}, 0.79 * 7 / 8), ({"start": "together"}, 0.0)]
)
def test_streams_start_spread_over_an_answer_and_the_thinking_after_it(tmp_path, load, spread_s):
    pace = ("--first-s", "0.3", "--gap-s", "0.01")
    _, requests, _ = measure(closed(8, 16, warmup_requests=2, **load), tmp_path, *pace)
    ramp = sorted(row["scheduled_ns"] for row in requests.to_pylist() if row["phase"] == "ramp")[:8]
    assert (ramp[-1] - ramp[0]) / 1e9 == pytest.approx(spread_s, rel=0.25, abs=0.05)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_closed_loops_window_holds_the_requests_that_were_asked_for(tmp_path, workers):
    result, requests, summary = measure(
        closed(6, 50), tmp_path, "--first-s", "0.03", "--gap-s", "0.002", workers=workers, expected_e2e_s=0.05
    )
    assert result.counts == {"ok": 50}
    inside = [row["scheduled_ns"] for row in requests.to_pylist() if row["phase"] == "window"]
    assert min(inside) == 0
    assert max(inside) < summary["window_s"] * 1e9
    # As many answers end in it as requests began: it ends where the request after its last one was sent.
    assert summary["achieved_rps"] * summary["window_s"] == pytest.approx(50, abs=1)
    tail = [row for row in requests.to_pylist() if row["phase"] == "tail"]
    assert tail
    assert min(row["scheduled_ns"] for row in tail) >= summary["window_s"] * 1e9


def test_a_closed_loops_window_ends_at_its_duration(tmp_path):
    load = closed(4, 5000, duration_s=0.5)
    result, _, summary = measure(load, tmp_path, "--first-s", "0.02", "--gap-s", "0.001")
    assert summary["window_s"] == pytest.approx(0.5, abs=0.05)
    assert 20 < summary["requests"] < 100
    assert result.window.exhausted_ns is None


def test_a_load_that_runs_out_is_known(tmp_path):
    load = Load(rate_rps=50, requests=20)
    pace = ("--first-s", "0.5", "--gap-s", "0.02")
    short, _, _ = measure(load, tmp_path / "short", *pace, spare=2)
    enough, _, _ = measure(load, tmp_path / "enough", *pace)
    assert short.window.exhausted_ns is not None
    assert enough.window.exhausted_ns is None


def test_bursts_come_to_an_idle_server_and_are_their_own_window(tmp_path):
    between = []
    load = Load(burst=12, bursts=3, warmup_requests=2, arrival={"process": "burst"})
    result, requests, summary = measure(
        load, tmp_path, "--first-s", "0.1", "--gap-s", "0.01", between=lambda: between.append(1)
    )
    assert set(requests["phase"].to_pylist()) == {"warmup", "window"}
    assert result.counts == {"ok": 36}
    assert len(between) == 3  # after the warm-up, and between bursts: where a cache is reset
    rows = rows_of(result.requests)
    starts = sorted({row["scheduled_ns"] for row in rows})
    bursts = [[row for row in rows if row["scheduled_ns"] == start] for start in starts]
    assert [len(burst) for burst in bursts] == [12, 12, 12]
    for before, after in pairwise(bursts):
        assert max(row["end_ns"] for row in before) < min(row["sent_ns"] for row in after)
    took = sum(max(row["last_ns"] for row in burst) - burst[0]["scheduled_ns"] for burst in bursts) / 1e9
    assert summary["window_s"] == pytest.approx(took)
    assert summary["achieved_rps"] == pytest.approx(36 / took)


@pytest.mark.parametrize(
    "load",
    [
        Load(rate_rps=40, requests=20, warmup_requests=2, ramp_s=0.3),
        closed(2, 12, warmup_requests=2, ramp_s=0.3),
        Load(burst=6, bursts=2, warmup_requests=2, arrival={"process": "burst"}),
    ],
    ids=["open", "closed", "burst"],
)
def test_whoever_asks_is_told_once_when_the_window_opens(tmp_path, load):
    called: list[int] = []
    told = measure(
        load, tmp_path, "--first-s", "0.02", "--gap-s", "0.002", on_window=lambda: called.append(time.monotonic_ns())
    )
    (when,) = called
    start_ns = told[0].clock.window_start_ns
    assert abs(when - start_ns) < 0.5e9
    if load.loop != "burst":
        assert when - start_ns > -0.25e9, "the ramp is over"


def test_a_plain_pass_sends_the_window_and_nothing_else(tmp_path):
    result, requests, _ = measure(
        Load(rate_rps=100, requests=10), tmp_path, "--first-s", "0.02", "--gap-s", "0.001", plain=True
    )
    assert set(requests["phase"].to_pylist()) == {"window"}
    assert result.counts == {"ok": 10}


def flights(times_ms: list[int], e2e_ms: int, now_ms: int) -> list[InFlight]:
    """Requests of a ramp as they stand at `now_ms`."""
    made = []
    for time_ms in times_ms:
        flight = InFlight(0, b"", 0, time_ms * MS)
        flight.end_ns = (time_ms + e2e_ms) * MS if time_ms + e2e_ms <= now_ms else 0
        made.append(flight)
    return made


@pytest.mark.parametrize(("e2e_ms", "now_ms", "over"), [(100, 1900, False), (100, 2100, True), (3000, 2900, False),
                                                        (3000, 3900, True)])  # fmt: skip
def test_an_open_ramp_is_over_when_its_first_requests_have_ended(e2e_ms, now_ms, over):
    requests = flights(list(range(0, 5000, 50)), e2e_ms, now_ms)
    assert OpenRamp(requests, 0, 2000 * MS).over(now_ms * MS) is over


def test_a_request_that_hangs_does_not_hold_up_a_window():
    requests = flights(list(range(0, 3000, 50)), 100, 3000)
    requests[3].end_ns = 0
    assert OpenRamp(requests, 0, 0).over(3000 * MS)
    for flight in requests[:8]:
        flight.end_ns = 0
    assert not OpenRamp(requests, 0, 0).over(3000 * MS)


def test_of_few_requests_all_must_have_ended():
    requests = flights([0, 300, 500, 2000], 100, 3000)
    assert OpenRamp(requests, 0, 0).over(3000 * MS)
    requests[1].end_ns = 0
    assert not OpenRamp(requests, 0, 0).over(3000 * MS)


def test_a_closed_ramp_is_over_when_every_stream_was_answered_and_none_draw_together():
    ramp = ClosedRamp(4, 0, 0)
    for stream, time_ms in enumerate((0, 100, 200, 300)):
        ramp.free(stream, time_ms * MS)
    assert not ramp.over(400 * MS)
    for stream, time_ms in enumerate((400, 420, 440, 460)):  # answered in step: the spread shrinks
        ramp.free(stream, time_ms * MS)
    assert not ramp.over(500 * MS)
    for stream, time_ms in enumerate((800, 820, 840, 862)):  # and now it does not any more
        ramp.free(stream, time_ms * MS)
    assert ramp.over(900 * MS)
    assert not ClosedRamp(1, 0, 1000 * MS).over(900 * MS)

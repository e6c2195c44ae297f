"""When requests are sent: the window is what it was asked to be, and the load goes on before and after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from servegauge.contract.spec import Load
from servegauge.workloads.load_times import load_times

SEEDS = {"warmup": 1, "window": 2, "ramp": 3, "tail": 4}


def times_of(load: Load, output_tokens: float | None = None):
    return load_times(load, SEEDS, Path(), output_tokens)


@pytest.mark.parametrize("arrival", [{"process": "poisson"}, {"process": "constant"}, {"process": "gamma", "shape": 4}])
def test_arrivals_go_on_in_the_tail_as_if_the_window_had_no_end(arrival):
    short, long = (times_of(Load(rate_rps=10, arrival=arrival, requests=count)) for count in (20, 60))
    assert len(short.window) == 20
    assert short.window + short.tail[:40] == long.window
    assert short.window_s == short.tail[0]


def test_a_window_by_duration_ends_with_it():
    made = times_of(Load(rate_rps=10, duration_s=3.0))
    assert made.window_s == 3.0
    assert made.window[-1] < 3.0 <= made.tail[0]


def test_whichever_ends_first_ends_the_window():
    assert times_of(Load(rate_rps=10, requests=500, duration_s=3.0)).window_s == 3.0
    few = times_of(Load(rate_rps=10, requests=5, duration_s=30.0))
    assert (len(few.window), few.window_s) == (5, few.tail[0])
    assert few.window_s < 3.0


def test_a_burst_that_the_window_cuts_is_not_cut():
    made = times_of(Load(rate_rps=10, arrival={"process": "burst", "size": 4}, requests=8))
    assert made.window == [0.0] * 4 + [0.4] * 4
    assert made.window_s == pytest.approx(0.8)
    odd = times_of(Load(rate_rps=10, arrival={"process": "burst", "size": 4}, requests=6))
    assert max(odd.window) < odd.window_s
    assert min(odd.tail) >= odd.window_s


@pytest.mark.parametrize("process", ["steps", "ramp"])
def test_around_a_shaped_window_the_load_is_that_of_its_ends(process):
    load = Load(rate_rps=50, arrival={"process": process, "factors": [0.5, 2.0]}, duration_s=20.0)
    made = times_of(load, output_tokens=400)
    assert np.mean(np.diff(made.ramp)) == pytest.approx(1 / 25, rel=0.15)
    assert np.mean(np.diff(made.tail)) == pytest.approx(1 / 100, rel=0.15)
    assert made.tail[0] >= 20.0


def test_longer_answers_need_more_requests_around_the_window():
    load = Load(rate_rps=20, requests=10)
    few, many = (len(times_of(load, tokens).tail) for tokens in (10, 1000))
    assert few >= 20 * 3
    assert many >= 20 * 50


def test_a_closed_loop_has_several_rounds_around_its_window_and_a_burst_has_none():
    closed = times_of(Load(concurrency=8, requests=10, warmup_requests=2))
    assert (len(closed.warmup), len(closed.window), closed.window_s) == (2, 10, None)
    assert min(len(closed.ramp), len(closed.tail)) >= 4 * 8
    burst = times_of(Load(burst=6, bursts=2))
    assert (burst.window, burst.ramp, burst.tail) == ([0.0] * 12, [], [])

"""Arrival processes: exact for a seed, at the rate that was asked, with the spread that defines them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servegauge.base.errors import UserError
from servegauge.workloads.arrivals import PROCESSES, arrival_times, recorded_times

NEEDS = {
    "gamma": {"shape": 2.0},
    "burst": {"size": 3},
    "steps": {"factors": [1, 0, 2]},
    "ramp": {"factors": [0.5, 1.5]},
}

POISSON_7 = [0.35376462789596075, 0.8663663020434133, 1.150640630735039]
GAMMA_7 = [0.45862784193384226, 0.854425926809119, 1.2123170410452846]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "times.txt"
    path.write_text("# seconds\n100.0\n100.5\n103.0\n104.0\n")
    return path


def arrival(process: str, recording: Path) -> dict:
    return {"process": process, **NEEDS.get(process, {}), **({"path": str(recording)} if process == "replay" else {})}


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize(("requests", "duration_s"), [(50, None), (None, 20.0), (30, 20.0), (10_000, 2.0)])
def test_every_process_ends_as_asked(
    process: str, requests: int | None, duration_s: float | None, recording: Path
) -> None:
    own = np.array([0.0, 0.5, 3.0, 4.0]) if process == "trace" else None
    times = arrival_times(arrival(process, recording), 5.0, requests, duration_s, seed=1, recorded=own)
    again = arrival_times(arrival(process, recording), 5.0, requests, duration_s, seed=1, recorded=own)
    assert times.dtype == np.float64
    assert np.array_equal(times, again)
    assert np.all(np.diff(times) >= 0)
    assert times.size > 0
    assert times[0] >= 0
    if duration_s is None:
        assert times.size == requests
    else:
        assert times[-1] < duration_s
        assert requests is None or times.size <= requests


@pytest.mark.parametrize("process", ["poisson", "gamma", "steps", "ramp"])
def test_another_seed_is_another_draw(process: str, recording: Path) -> None:
    first, second = (arrival_times(arrival(process, recording), 5.0, 20, seed=seed) for seed in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("process", ["poisson", "gamma", "constant", "burst", "replay"])
def test_a_longer_window_begins_with_the_shorter_one(process: str, recording: Path) -> None:
    short, long = (arrival_times(arrival(process, recording), 5.0, None, length, seed=4) for length in (10.0, 3000.0))
    assert np.array_equal(long[: short.size], short)


def test_the_times_of_a_seed_never_change() -> None:
    # Recorded: a change would silently make every frozen workload another one.
    assert arrival_times({"process": "poisson"}, 2.0, 3, seed=7).tolist() == pytest.approx(POISSON_7, abs=1e-12)
    assert arrival_times({"process": "gamma", "shape": 4}, 2.0, 3, seed=7).tolist() == pytest.approx(GAMMA_7, abs=1e-12)


@given(rate=st.floats(0.01, 1e4), seed=st.integers(0, 2**64 - 1), shape=st.floats(0.05, 50))
@settings(max_examples=60, deadline=None)
def test_mean_and_spread_of_gamma(rate: float, seed: int, shape: float) -> None:
    gaps = np.diff(arrival_times({"process": "gamma", "shape": shape}, rate, 4000, seed=seed), prepend=0.0)
    # Six standard errors: the mean of 4000 gaps with coefficient of variation 1 / sqrt(shape).
    assert gaps.mean() * rate == pytest.approx(1, abs=6 / np.sqrt(shape * 4000))
    if shape >= 0.5:
        assert gaps.std() / gaps.mean() == pytest.approx(1 / np.sqrt(shape), rel=0.35)


def test_gamma_of_shape_1_is_poisson() -> None:
    gamma, poisson = ({"process": "gamma", "shape": 1}, {"process": "poisson"})
    assert np.array_equal(arrival_times(gamma, 3.0, 100, seed=5), arrival_times(poisson, 3.0, 100, seed=5))


def test_poisson_counts_vary_as_they_must() -> None:
    counts = [arrival_times({"process": "poisson"}, 10.0, None, 10.0, seed=seed).size for seed in range(400)]
    assert np.mean(counts) == pytest.approx(100, abs=3)
    assert np.var(counts) == pytest.approx(100, rel=0.3)


def test_constant_and_burst_are_exact() -> None:
    assert arrival_times({"process": "constant"}, 4.0, None, 1.0).tolist() == [0, 0.25, 0.5, 0.75]
    assert arrival_times({"process": "burst", "size": 2}, 4.0, 5).tolist() == [0, 0, 0.5, 0.5, 1.0]
    assert arrival_times({"process": "burst", "size": 3}, 3.0, None, 2.0).tolist() == [0, 0, 0, 1, 1, 1]


def test_replay_keeps_the_pattern_and_takes_the_rate(recording: Path) -> None:
    times = arrival_times(arrival("replay", recording), 1.5, 4)
    # Recorded gaps 0.5, 2.5, 1 at a mean rate of 3 gaps in 4 s; twice as fast at 1.5 a second.
    assert times.tolist() == pytest.approx([0, 0.25, 1.5, 2.0])
    cycled = arrival_times(arrival("replay", recording), 1.5, 8)
    assert cycled[4:].tolist() == pytest.approx((times + 4 / 1.5).tolist())
    assert recorded_times(recording).tolist() == [0, 0.5, 3.0, 4.0]


def test_steps_and_ramp_follow_their_factors() -> None:
    steps = arrival_times({"process": "steps", "factors": [1, 0, 3]}, 100.0, None, 30.0, seed=3)
    counts, _ = np.histogram(steps, bins=[0, 10, 20, 30])
    assert counts[1] == 0
    assert counts[0] == pytest.approx(1000, abs=6 * np.sqrt(1000))
    assert counts[2] == pytest.approx(3000, abs=6 * np.sqrt(3000))
    ramp = arrival_times({"process": "ramp", "factors": [0, 2]}, 100.0, None, 40.0, seed=3)
    first, second = np.histogram(ramp, bins=[0, 20, 40])[0]
    assert first == pytest.approx(1000, abs=6 * np.sqrt(1000))
    assert second == pytest.approx(3000, abs=6 * np.sqrt(3000))


def test_a_flat_ramp_is_a_flat_step() -> None:
    ramp, steps = (
        arrival_times({"process": process, "factors": [1, 1]}, 5.0, 100, 10.0, seed=9) for process in ("ramp", "steps")
    )
    assert ramp == pytest.approx(steps)


BAD_NUMBERS = (0, -1, float("inf"), float("nan"), "2", True)


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("inf"), float("nan"), "5", 1e9])
@pytest.mark.parametrize("process", PROCESSES)
def test_a_window_that_cannot_be_drawn_is_one_clear_error(process: str, duration_s: object, recording: Path) -> None:
    with pytest.raises(UserError, match=r"`duration_s` is|would be drawn"):
        arrival_times(arrival(process, recording), 100.0, None, duration_s)


@pytest.mark.parametrize(
    ("what", "rate", "requests", "message"),
    [
        ({"process": "poison"}, 1.0, 1, "did you mean 'poisson'"),
        ({"process": "gamma"}, 1.0, 1, "needs `shape`"),
        ({"process": "burst"}, 1.0, 1, "needs `size`"),
        ({"process": "replay"}, 1.0, 1, "needs `path`"),
        ({"process": "replay", "path": "nowhere.txt"}, 1.0, 1, "not on this machine"),
        ({"process": "steps", "factors": [0, 0]}, 1.0, 1, "all of its `factors` are 0"),
        ({"process": "ramp", "factors": [1]}, 1.0, 1, "two `factors`"),
        ({"process": "poisson"}, 0.0, 1, "the rate is 0.0"),
        ({"process": "poisson"}, -1.0, 1, "the rate is -1"),
        ({"process": "poisson"}, float("inf"), 1, "the rate is inf"),
        ({"process": "poisson"}, float("nan"), 1, "the rate is nan"),
        ({"process": "poisson"}, 1e-320, 1, "the rate is"),
        ({"process": "constant"}, None, 1, "the rate is None"),
        ({"process": "constant"}, True, 1, "the rate is True"),
        ({"process": "constant"}, "3", 1, "the rate is 3"),
        ({"process": "constant"}, 1.0, 0, "`requests` is 0"),
        ({"process": "constant"}, 1.0, 2.5, "`requests` is 2.5"),
        ({"process": "constant"}, 1.0, 10**9, "`requests` is 1000000000"),
        *(({"process": "gamma", "shape": shape}, 1.0, 1, "`shape` is") for shape in BAD_NUMBERS),
        ({"process": "gamma", "shape": 1e-300}, 1.0, 1, "`shape` is"),
        *(({"process": "burst", "size": size}, 1.0, 1, "`size` is") for size in (*BAD_NUMBERS, 1.5, 10**9)),
        *(({"process": "steps", "factors": [1, size]}, 1.0, 1, "`factors` are") for size in BAD_NUMBERS if size != 0),
        *(({"process": "ramp", "factors": [1, size]}, 1.0, 1, "`factors` are") for size in BAD_NUMBERS if size != 0),
        ({"process": "steps", "factors": []}, 1.0, 1, "`factors` is"),
        ({"process": "steps", "factors": "1,2"}, 1.0, 1, "`factors` is"),
        ({"process": "steps", "factors": [1e5, 1e6]}, 1e6, 1, "mean rate"),
        ({"process": "ramp", "factors": [0, 0]}, 1.0, 1, "all of its `factors` are 0"),
        ({"process": "poisson", "shape": 2}, 1.0, 1, "`shape` belongs to gamma"),
        ({"process": "gamma", "shape": 2, "size": 3}, 1.0, 1, "`size` belongs to burst"),
        ({"process": "constant", "factors": [1]}, 1.0, 1, "`factors` belongs to steps and ramp"),
        ({"process": "poisson"}, 1.0, None, "never ends"),
    ],
)
def test_mistakes_say_what_to_do(what: dict, rate: float, requests: int | None, message: str) -> None:
    with pytest.raises(UserError, match=f"(?i){message}"):
        arrival_times(what, rate, requests)


@pytest.mark.parametrize("text", ["1.0\n", "2\n2\n", "a\n", "nan\n1\n"])
def test_a_recording_needs_two_times(tmp_path: Path, text: str) -> None:
    (tmp_path / "times.txt").write_text(text)
    with pytest.raises(UserError, match=r"times\.txt"):
        recorded_times(Path("times.txt"), tmp_path)

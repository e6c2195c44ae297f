"""Calibration: known truth gives known errors; limits, nearest point and number of processes follow from them."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from servegauge.contract.records.base import read
from servegauge.contract.records.calibration import Beyond, CalibratedPoint, Calibration, Nearest, Point
from servegauge.contract.spec import Load
from servegauge.instrument import calibrate
from servegauge.instrument.coordinator import LoadResult
from tests.unit.contract.test_metrics import MS, row, table


def point(error_s: float, tokens_per_s: float = 10.0, **load: Any) -> CalibratedPoint:
    return CalibratedPoint(load=Point(**load), ttft_error_s={"p99": error_s}, tokens_per_s=tokens_per_s)


def calibration(*points: CalibratedPoint, cpus: tuple[int, ...] | None = None) -> Calibration:
    return Calibration(points=points, limits=calibrate.limits(points), cpus=cpus)


def nearest(node: Calibration, load: Load, *axes: float) -> Nearest:
    found = calibrate.nearest(node, load, *axes)
    assert found is not None
    return found


def test_the_error_is_reported_less_true(tmp_path):
    # One row of the window came from the spare requests of the tail, as it may where many streams send at once.
    names = [f"calibration-{'tail' if number == 3 else 'window'}-{number}" for number in range(4)]
    rows = [row(number, request_id=names[number]) for number in range(4)]
    pq.write_table(table(*rows), tmp_path / "requests.parquet")
    instrument = {"cpu_s": 0.12, "busiest_cpu_share": 0.03, **{f"lateness_{k}_s": 0.001 for k in ("p50", "p99", "max")}}
    result = LoadResult(tmp_path / "requests.parquet", {"ok": 4}, 4.0, {}, instrument, False)
    # The server got each request 1 ms after it was sent and sent its tokens 98, 118 and 139 ms after that.
    truth = {}
    for number in range(4):
        got = number * 1000 * MS + 2 * MS
        sends = [got + 98 * MS, got + 118 * MS, got + 139 * MS]
        truth[names[number]] = {"received_ns": got, "sends_ns": sends}
    found = calibrate.compare(result, truth, Point(streams=1, first_s=0.098, gap_s=0.02))
    assert found.ttft_error_s["p50"] == pytest.approx(0.002)
    assert found.ttft_paired_error_s["max"] == pytest.approx(0.002)
    assert found.itl_error_s["max"] == pytest.approx(-0.001)
    assert found.e2e_error_s["p99"] == pytest.approx(0.001)
    assert found.server_slip_s["max"] == pytest.approx(0.001)
    assert found.tokens_per_s == pytest.approx(3.0)
    assert found.cpu_s_per_token == pytest.approx(0.01)


def test_the_limit_is_the_highest_load_up_to_which_all_are_carried():
    points = [point(0.0001, streams=1), point(-0.0005, streams=64), point(0.002, streams=128), point(0.0, streams=256)]
    found = calibrate.limits([*points, point(0.005, rate_rps=10.0)])
    assert (found.streams, found.streams_tried) == (64, 256)
    assert (found.rate_rps, found.rate_rps_tried) == (None, 10.0)


def test_the_nearest_point_is_nearest_on_a_logarithmic_scale():
    node = calibration(
        point(0.0, streams=1), point(0.0, streams=16), point(0.002, streams=256), point(0.0, rate_rps=5.0)
    )
    assert nearest(node, Load(concurrency=5)).load.streams == 16
    assert nearest(node, Load(concurrency=5)).beyond is False
    assert nearest(node, Load(concurrency=200)).beyond is True
    assert nearest(node, Load(rate_rps=8.0)).beyond is False
    assert nearest(node, Load(rate_rps=11.0)).beyond is True
    assert calibrate.nearest(None, Load(rate_rps=8.0)) is None
    assert calibrate.nearest(calibration(point(0.0, streams=1)), Load(rate_rps=8.0)) is None


def test_the_farthest_axis_decides_whether_a_load_is_beyond():
    node = calibration(
        point(0.0, 2000.0, streams=16, prompt_tokens=64),
        point(0.0, 500.0, streams=8, prompt_tokens=8192),
        point(0.0, 100.0, rate_rps=10.0, prompt_tokens=64),
    )
    # By streams alone all of these are near.
    near = nearest(node, Load(concurrency=16), 2500.0, 100.0)
    assert (near.load.prompt_tokens, near.beyond, near.beyond_axis) == (64, False, None)
    assert nearest(node, Load(concurrency=16), 600.0, 9000.0).load.prompt_tokens == 8192
    fast = nearest(node, Load(concurrency=16), 9000.0, 100.0)
    assert fast.beyond
    assert fast.beyond_axis == Beyond(axis="tokens_per_s", value=9000.0, carried=2000.0)
    for load, axes, worst in (
        (Load(concurrency=8), (500.0, 60_000.0), "prompt_tokens"),
        (Load(concurrency=64), (100.0, 64.0), "streams"),
    ):
        beyond = nearest(node, load, *axes).beyond_axis
        assert beyond is not None
        assert beyond.axis == worst
    # What was carried under streams was carried: tokens and bytes are the same in an open loop.
    assert nearest(node, Load(rate_rps=10.0), 3000.0, 8000.0).beyond is False
    assert nearest(node, Load(burst=16), 2000.0, 64.0).load.streams == 16


def test_a_noisy_point_is_measured_again_and_the_median_counts():
    errors = iter([0.004, 0.0002, 0.0008])
    found = calibrate.steadily(lambda: point(next(errors), streams=1))
    assert found.ttft_error_s["p99"] == 0.0008
    assert found.tries == (0.004, 0.0002, 0.0008)
    errors = iter([0.0003, 9.0])
    assert calibrate.steadily(lambda: point(next(errors), streams=1)).tries == (0.0003,)
    errors = iter([0.004, -0.005, 0.0001])  # noisy in the median, too: it stays so
    assert calibrate.steadily(lambda: point(next(errors), streams=1)).ttft_error_s["p99"] == 0.004
    off = msgspec.structs.replace(point(0.004, streams=1), ttft_error_s={"p90": 0.003, "p99": 0.004})
    assert calibrate.steadily(lambda: off).tries == (0.004,)


def test_a_launch_with_long_prompts_is_calibrated_with_long_prompts():
    assert calibrate.short_points(None) == calibrate.short_points(10_000) == calibrate.SHORT
    assert calibrate.short_points(60_000.5)[-1].prompt_tokens == 60_001


def test_more_processes_where_one_does_not_carry_the_load():
    node = calibration(point(0.0, streams=64), point(0.002, streams=256), cpus=(0, 1, 2))
    assert calibrate.workers_needed(node, Load(concurrency=64)) == 1
    assert calibrate.workers_needed(node, Load(concurrency=100)) == 2
    assert calibrate.workers_needed(node, Load(concurrency=1000)) == 3
    assert calibrate.workers_needed(msgspec.structs.replace(node, cpus=None), Load(concurrency=1000)) == 1
    assert calibrate.workers_needed(None, Load(concurrency=1000)) == 1


def test_a_real_point_is_measured_and_written(tmp_path):
    grid = [Point(streams=2, requests=4, output_tokens=4, gap_s=0.002), Point(rate_rps=50.0, requests=4, gap_s=0.002)]
    result = calibrate.calibrate(points=grid, out=tmp_path / "calibration.json")
    assert read(tmp_path / "calibration.json", Calibration) == result
    for measured in result.points:
        assert measured.counts == {"ok": 4}
        assert set(measured.ttft_error_s) == {"p50", "p90", "p99", "max"}
        # Wide, for machines that are busy with other tests: a client that stamps whole seconds late would fail.
        assert abs(measured.ttft_error_s["p50"]) < 0.05
        assert measured.cpu_s
    assert result.limits.streams_tried == 2

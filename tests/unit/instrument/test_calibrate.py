"""Calibration: known truth gives known errors; limits, nearest point and number of processes follow from them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from servegauge.contract.records.base import read
from servegauge.contract.records.calibration import Beyond, CalibratedPoint, Calibration, Nearest, Point
from servegauge.contract.records.cell import Clock, Window
from servegauge.contract.spec import Load
from servegauge.instrument import calibrate, carried
from servegauge.instrument.coordinator import LoadResult
from tests.unit.contract.test_metrics import MS, row, table


def point(error_s: float, tokens_per_s: float = 10.0, **load: Any) -> CalibratedPoint:
    return CalibratedPoint(load=Point(**load), ttft_error_s={"p99": error_s}, tokens_per_s=tokens_per_s)


def calibration(*points: CalibratedPoint, cpus: tuple[int, ...] | None = None) -> Calibration:
    return Calibration(points=points, limits=carried.limits(points), cpus=cpus)


def nearest(node: Calibration, load: Load, *axes: float) -> Nearest:
    found = carried.nearest(node, load, *axes)
    assert found is not None
    return found


def test_the_error_is_reported_less_true(tmp_path):
    # One row of the window came from the spare requests of the tail, as it may where many streams send at once.
    names = [f"calibration-{'tail' if number == 3 else 'window'}-{number}" for number in range(4)]
    rows = [row(number, request_id=names[number]) for number in range(4)]
    pq.write_table(table(*rows), tmp_path / "requests.parquet")
    instrument = {"cpu_s": 0.12, "busiest_cpu_share": 0.03, **{f"lateness_{k}_s": 0.001 for k in ("p50", "p99", "max")}}
    result = LoadResult(tmp_path / "requests.parquet", {"ok": 4}, Window(duration_s=4.0), Clock(), instrument, False)
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
    found = carried.limits([*points, point(0.005, rate_rps=10.0)])
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
    assert carried.nearest(None, Load(rate_rps=8.0)) is None
    assert carried.nearest(calibration(point(0.0, streams=1)), Load(rate_rps=8.0)) is None


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


def test_what_was_noisy_while_other_work_had_the_node_says_nothing_of_the_instrument():
    busy = msgspec.structs.replace(point(0.004, streams=1), others_share=0.4)
    node = calibration(busy, point(0.0001, streams=64))
    assert node.limits.streams == 64
    near = nearest(node, Load(concurrency=2))
    assert (near.load.streams, near.disturbed, near.beyond) == (1, True, False)
    # More than what was carried is still beyond it, and where all was disturbed nobody knows.
    assert nearest(node, Load(concurrency=512)).beyond is True
    assert nearest(calibration(busy), Load(concurrency=2), 5000.0, 90.0).beyond is False
    # A load that only the disturbed point would have told of: not beyond, unless a smaller one failed on a quiet node.
    fast = msgspec.structs.replace(point(0.004, streams=256, tokens_per_s=9000.0), others_share=0.4)
    carried, failed = point(0.0001, streams=64), point(0.003, streams=64)
    near = nearest(calibration(carried, fast), Load(concurrency=256), 8000.0)
    assert (near.load.streams, near.disturbed, near.beyond, near.beyond_axis) == (256, True, False, None)
    assert nearest(calibration(carried, fast), Load(concurrency=600), 8000.0).beyond is True
    assert nearest(calibration(failed, fast), Load(concurrency=256), 8000.0).beyond is True
    # A quiet node and the same error: the instrument's.
    quiet = msgspec.structs.replace(busy, others_share=0.02)
    near = nearest(calibration(quiet, point(0.0001, streams=64)), Load(concurrency=2))
    assert (near.disturbed, near.beyond) == (False, True)


def test_a_launch_is_calibrated_at_its_own_loads():
    def added(*loads: tuple[Load, float | None]) -> list[tuple]:
        points = calibrate.short_points(loads)
        assert points[: len(calibrate.SHORT)] == calibrate.SHORT
        return [(one.streams, one.rate_rps, one.prompt_tokens) for one in points[len(calibrate.SHORT) :]]

    assert added() == added((Load(concurrency=2), 700.0), (Load(rate_rps=60.0), None), (Load(burst=100), 90.0)) == []
    assert added((Load(concurrency=16), 512.0), (Load(concurrency=12), 512.0)) == [(16, None, 512)]
    assert added((Load(burst=1000), 64.0)) == [(1000, None, 64)]
    assert added((Load(concurrency=64), 60_000.5)) == [(64, None, 60_001)]  # as many bytes at once as the cell has
    assert added((Load(rate_rps=0.5), 64.0), (Load(rate_rps=300.0), 64.0)) == [(None, 300.0, 64), (None, 20.0, 64)]
    many = added(*((Load(concurrency=600 * 3**power), 64.0) for power in range(8)))
    assert [streams for streams, *_ in many] == [600 * 3**power for power in range(7, 1, -1)]


@pytest.fixture
def measured(monkeypatch):
    """What calibrations measure instead of loads: the list of points, with errors from the list `errors`."""
    points: list[Point] = []
    errors: list[float] = []

    def measure(one: Point, *_: object) -> CalibratedPoint:
        points.append(one)
        return msgspec.structs.replace(point(errors.pop(0) if errors else 0.0001), load=one)

    monkeypatch.setattr(calibrate, "measure", measure)
    monkeypatch.setattr(calibrate, "paced_server", lambda *_: contextlib.nullcontext())
    return points, errors


def test_a_point_that_was_held_up_is_measured_again_when_the_others_are_done(measured):
    points, errors = measured
    errors += [0.004, 0.003, 0.005, 0.0001, 0.0002]
    first, second = Point(streams=1), Point(streams=64)
    result = calibrate.calibrate(points=[first, second])
    assert points == [first] * 3 + [second, first]
    assert [one.ttft_p99_error_s for one in result.points] == [0.0002, 0.0001]
    assert result.limits.streams == 64
    assert result.points[0].tries == (0.004, 0.003, 0.005, 0.0002)


def test_what_is_known_is_not_measured_again_unless_it_was_not_carried(measured):
    points, errors = measured
    grid = [Point(streams=1), Point(streams=64)]
    errors += [0.0001, *[0.004] * 4]
    known = calibrate.calibrate(points=grid)
    assert known.limits.streams == 1
    points.clear()
    more = calibrate.calibrate(points=[*grid, Point(rate_rps=50.0)], known=known)
    assert points == [Point(streams=64), Point(rate_rps=50.0)]
    assert more.limits.streams == 64
    points.clear()
    kept = carried.merged(more, calibrate.calibrate(points=[Point(streams=8)], known=more))
    assert points == [Point(streams=8)]
    calibrate.calibrate(points=[*grid, Point(streams=8), Point(rate_rps=50.0)], known=kept)
    assert points == [Point(streams=8)]


def test_more_processes_where_one_does_not_carry_the_load():
    node = calibration(point(0.0, streams=64), point(0.002, streams=256), cpus=(0, 1, 2))
    assert carried.workers_needed(node, Load(concurrency=64)) == 1
    assert carried.workers_needed(node, Load(concurrency=100)) == 2
    assert carried.workers_needed(node, Load(concurrency=1000)) == 3
    assert carried.workers_needed(msgspec.structs.replace(node, cpus=None), Load(concurrency=1000)) == 1
    assert carried.workers_needed(None, Load(concurrency=1000)) == 1


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
        assert measured.others_share is not None
        assert 0 <= measured.others_share <= 1
    assert result.limits == carried.limits(result.points)  # a point that other tests held up is none of them


def test_the_paced_server_ends_with_who_calibrates_even_where_that_is_killed(tmp_path):
    calibrates = (
        "import sys, time; from pathlib import Path; from servegauge.instrument.calibrate import paced_server\n"
        "with paced_server([], None, Path(sys.argv[1])) as server:\n"
        "    print(server.process.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", calibrates, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    server = int(process.stdout.readline())
    os.kill(server, 0)
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while (alive := _alive(server)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive


def _alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

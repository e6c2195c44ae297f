"""Calibration: known truth gives known errors; limits, nearest point and number of processes follow from them."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from servegauge.base.files import read_json
from servegauge.contract.spec import Load
from servegauge.instrument import calibrate
from servegauge.instrument.calibrate import Point
from servegauge.instrument.coordinator import LoadResult
from tests.unit.contract.test_metrics import MS, row, table


def point(error_s: float, **load: object) -> dict:
    load = {"streams": None, "rate_rps": None, **load}
    return {"load": load, "ttft_error_s": {"p99": error_s}, "tokens_per_s": 10.0}


def calibration(*points: dict, cpus: list[int] | None = None) -> dict:
    return {"points": list(points), "limits": calibrate.limits(points), "cpus": cpus}


def test_the_error_is_reported_less_true(tmp_path):
    rows = [row(number) for number in range(4)]
    pq.write_table(table(*rows), tmp_path / "requests.parquet")
    instrument = {"cpu_s": 0.12, "busiest_cpu_share": 0.03, **{f"lateness_{k}_s": 0.001 for k in ("p50", "p99", "max")}}
    result = LoadResult(tmp_path / "requests.parquet", {"ok": 4}, 4.0, {}, instrument, False)
    # The server got each request 1 ms after it was sent and sent its tokens 98, 118 and 139 ms after that.
    truth = {}
    for number in range(4):
        got = number * 1000 * MS + 2 * MS
        sends = [got + 98 * MS, got + 118 * MS, got + 139 * MS]
        truth[f"calibration-window-{number}"] = {"received_ns": got, "sends_ns": sends}
    found = calibrate.compare(result, truth, Point(streams=1, first_s=0.098, gap_s=0.02))
    assert found["ttft_error_s"]["p50"] == pytest.approx(0.002)
    assert found["ttft_paired_error_s"]["max"] == pytest.approx(0.002)
    assert found["itl_error_s"]["max"] == pytest.approx(-0.001)
    assert found["e2e_error_s"]["p99"] == pytest.approx(0.001)
    assert found["server_slip_s"]["max"] == pytest.approx(0.001)
    assert found["tokens_per_s"] == pytest.approx(3.0)
    assert found["cpu_s_per_token"] == pytest.approx(0.01)


def test_the_limit_is_the_highest_load_up_to_which_all_are_carried():
    points = [point(0.0001, streams=1), point(-0.0005, streams=64), point(0.002, streams=128), point(0.0, streams=256)]
    found = calibrate.limits([*points, point(0.005, rate_rps=10.0)])
    assert (found["streams"], found["streams_tried"]) == (64, 256)
    assert (found["rate_rps"], found["rate_rps_tried"]) == (None, 10.0)


def test_the_nearest_point_is_nearest_on_a_logarithmic_scale():
    node = calibration(
        point(0.0, streams=1), point(0.0, streams=16), point(0.002, streams=256), point(0.0, rate_rps=5.0)
    )
    assert calibrate.nearest(node, Load(concurrency=5))["load"]["streams"] == 16
    assert calibrate.nearest(node, Load(concurrency=5))["beyond"] is False
    assert calibrate.nearest(node, Load(concurrency=200))["beyond"] is True
    assert calibrate.nearest(node, Load(rate_rps=8.0))["beyond"] is False
    assert calibrate.nearest(node, Load(rate_rps=11.0))["beyond"] is True
    assert calibrate.nearest(None, Load(rate_rps=8.0)) is None
    assert calibrate.nearest(calibration(point(0.0, streams=1)), Load(rate_rps=8.0)) is None


def test_more_processes_where_one_does_not_carry_the_load():
    node = calibration(point(0.0, streams=64), point(0.002, streams=256), cpus=[0, 1, 2])
    assert calibrate.workers_needed(node, Load(concurrency=64)) == 1
    assert calibrate.workers_needed(node, Load(concurrency=100)) == 2
    assert calibrate.workers_needed(node, Load(concurrency=1000)) == 3
    assert calibrate.workers_needed({**node, "cpus": None}, Load(concurrency=1000)) == 1
    assert calibrate.workers_needed(None, Load(concurrency=1000)) == 1


def test_a_real_point_is_measured_and_written(tmp_path):
    grid = [Point(streams=2, requests=4, output_tokens=4, gap_s=0.002), Point(rate_rps=50.0, requests=4, gap_s=0.002)]
    result = calibrate.calibrate(points=grid, out=tmp_path / "calibration.json")
    assert read_json(tmp_path / "calibration.json") == result
    for measured in result["points"]:
        assert measured["counts"] == {"ok": 4}
        assert set(measured["ttft_error_s"]) == {"p50", "p90", "p99", "max"}
        # Wide, for machines that are busy with other tests: a client that stamps whole seconds late would fail.
        assert abs(measured["ttft_error_s"]["p50"]) < 0.05
        assert measured["cpu_s"] > 0
    assert result["limits"]["streams_tried"] == 2

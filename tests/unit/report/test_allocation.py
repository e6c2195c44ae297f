"""What the jobs' time was used for: parts that add up, from the dataset alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegauge.base.files import read_json, write_json
from servegauge.dataset import merge
from servegauge.dataset.rows import allocation as columns
from servegauge.dataset.study_view import Study
from servegauge.report.allocation_section import allocation
from tests import synthetic


def cell(start: int, end: int, window_s: float | None) -> dict[str, object]:
    return {"started_utc": f"2026-11-26T12:00:{start:02d}Z", "finished_utc": f"2026-11-26T12:00:{end:02d}.500Z",
            "window_s": window_s}  # fmt: skip


def test_the_parts_of_an_attempt() -> None:
    cells = [cell(20, 29, 5.0), cell(30, 39, 6.0), {"started_utc": None, "finished_utc": None, "window_s": None}]
    spent = {"calibration": 6.0, "idle_power": 5.0}
    found = columns("2026-11-26T12:00:00Z", "2026-11-26T12:01:00Z", [10.0, 2.0], cells, spent)
    assert found == {
        "job_s": 60.0, "starts_s": 12.0, "cells_s": 19.0, "windows_s": 11.0, "resets_s": None, "calibration_s": 6.0,
        "idle_power_s": 5.0,
    }  # fmt: skip
    cells = [{**cells[0], "reset_s": 0.5}, {**cells[1], "reset_s": 0.25}]
    assert columns("2026-11-26T12:00:00Z", "2026-11-26T12:01:00Z", [], cells, {})["resets_s"] == 0.75
    assert set(columns(None, "2026-11-26T12:01:00Z", [1.0], cells, spent).values()) == {None}


def test_the_report_sums_a_platforms_jobs_up(tmp_path: Path) -> None:
    synthetic.make_results(tmp_path, requests=20)
    results = tmp_path / "results"
    for path in results.glob("launches/*/attempt-0.json"):
        times = {"started_utc": "2026-11-26T12:00:00Z", "finished_utc": "2026-11-26T12:10:00Z"}
        write_json(path, {**read_json(path), **times})
    for path in results.glob("launches/*/attempt-0/launch.json"):
        record = read_json(path)
        record["server_starts"] = [{**one, "ready_s": 60.0} for one in record["server_starts"][:1]]
        record["spent_s"] = {"calibration": 30.0}
        write_json(path, record)
    merge.merge(results)
    attempts = merge.read(results, "attempts").to_pylist()
    assert {row["job_s"] for row in attempts} == {600.0}
    assert {row["starts_s"] for row in attempts} == {60.0}
    assert all(0 < row["windows_s"] <= row["cells_s"] for row in attempts)
    found = allocation(Study(results, "demo"))
    assert {one.platform: one.jobs for one in found} == {"own-cpu": 2, "shared-cpu": 2}
    for one in found:
        assert one.job_s == 1200.0
        assert one.gpu_h is None
        assert sum(one.shares.values()) == pytest.approx(1)
        assert one.shares["starts"] == pytest.approx(0.1)
        assert one.shares["calibration"] == pytest.approx(0.05)
        assert "idle_power" not in one.shares, "there is no GPU"
        assert one.shares["rest"] == pytest.approx(0.85 - one.shares["windows"] - one.shares["around"])
        assert "10% servers starting, 5% calibration" in one.words
        assert one.idle == pytest.approx(0.05 + one.shares["rest"]), "calibrating, no server has work either"
        assert one.words.endswith(f"; in {one.idle:.0%} of it no server was starting or had load")
        assert one.words.startswith(f"{one.platform}: 2 jobs of 20 min 00 s together: ")

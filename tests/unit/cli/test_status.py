"""`servegauge status`: what attempts' folders and the queue say becomes lines for a person."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from servegauge.base.files import write_json
from servegauge.cli.status import lines
from servegauge.contract.records.base import write
from servegauge.contract.records.order import Order
from servegauge.contract.records.specs import LaunchSpec
from servegauge.plan.expand import expand
from servegauge.submit.slurm_commands import JobState, Queue, SlurmSilent
from tests.unit.study_tree import Tree


@pytest.fixture
def plan(tree: Tree):
    return expand(tree.study(matrix={"rate": [1, 2], "platform": ["metal"], "repeat": 3}))


def attempt(results: Path, launch: str, number: int = 0, **job: object) -> Path:
    folder = results / "launches" / launch / f"attempt-{number}"
    record = {"version": 1, "mode": "slurm", "state": "submitted", "folder": "job-1a2b3c4d", "job": "7", **job}
    write_json(folder / "job.json", record)
    return folder


def outcome(launch: str, cells: dict[str, object]) -> dict[str, object]:
    return {"version": 1, "launch": launch, "attempt": 0, "study": "x", "cells": cells, "status": "ok"}


def queue(monkeypatch: pytest.MonkeyPatch, *jobs: JobState) -> None:
    monkeypatch.setattr(Queue, "look", lambda self: (time.time(), {job.job: job for job in jobs}))


def test_nothing_was_started(plan, tmp_path: Path) -> None:
    (line,) = lines(plan, tmp_path)
    assert line.endswith("0 of 3 launches and 0 of 6 cells measured; 0 launches running, 0 pending, 0 cells failed"), (
        line
    )


def test_running_pending_measured_and_failed(plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = (launch.id for launch in plan.launches)
    queue(monkeypatch, JobState("7", "RUNNING", "None", "bm01"), JobState("8", "PENDING", "(Priority)"))
    running = attempt(tmp_path, one)
    write_json(running / "running.json", {"nodes": "bm01", "started_s": time.time() - 60})
    order = Order(study="x", launch=LaunchSpec.of(plan.launches[0]), attempt=0, root="/", time_min=31)
    write(running / "order.json", order)
    (running / "progress.log").write_text("10:00:00 starting\n10:00:05 cell 1/2 x: 3/8 requests, 1 in flight\n")
    attempt(tmp_path, two, job="8")
    good, bad = (planned.id for planned in plan.cells_of(three))
    write_json(tmp_path / "cells" / good / "cell.json", {})
    cells = {good: {"status": "ok", "reason": None}, bad: {"status": "failed", "reason": "the server died\nmore"}}
    write_json(tmp_path / "launches" / three / "attempt-0.json", outcome(three, cells))
    text = "\n".join(lines(plan, tmp_path))
    assert "0 of 3 launches and 1 of 6 cells measured; 1 launches running, 1 pending, 1 cells failed" in text
    assert f"Running:\n  {one}: attempt 0, job 7, on bm01, 30 min 00 s left\n    10:00:05 cell 1/2 x: 3/8" in text
    assert f"Pending:\n  {two}: attempt 0, job 8, Priority" in text
    assert f"Failed:\n  {bad}\n    the server died  ({three})" in text


def test_a_cell_measured_later_is_not_failed_any_more(plan, tmp_path: Path) -> None:
    launch = plan.launches[0].id
    cell = plan.cells_of(launch)[0].id
    said = outcome(launch, {cell: {"status": "failed", "reason": "no"}})
    write_json(tmp_path / "launches" / launch / "attempt-0.json", said)
    assert any("Failed:" in line for line in lines(plan, tmp_path))
    write_json(tmp_path / "cells" / cell / "cell.json", {})
    assert not any("Failed:" in line for line in lines(plan, tmp_path))


def test_a_silent_slurm_is_said(plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(self: Queue) -> None:
        raise SlurmSilent("squeue: timed out")

    monkeypatch.setattr(Queue, "look", silent)
    attempt(tmp_path, plan.launches[0].id)
    text = "\n".join(lines(plan, tmp_path))
    assert "Slurm does not answer: squeue: timed out" in text
    assert "attempt 0, job 7" in text


def test_documents_half_written_do_not_stop_it(plan, tmp_path: Path) -> None:
    launch = plan.launches[0].id
    folder = attempt(tmp_path, launch, mode="local", job="1234")
    (folder / "running.json").write_text('{"nodes": ')
    (folder / "order.json").write_text("[]")
    assert f"  {launch}: attempt 0, job 1234" in list(lines(plan, tmp_path))


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 1, "mode": "local", "state": "subm'])
def test_a_damaged_record_of_a_job_is_named_with_the_way_out(plan, tmp_path: Path, text: str) -> None:
    (attempt(tmp_path, plan.launches[0].id) / "job.json").write_text(text)
    said = "\n".join(lines(plan, tmp_path))
    assert "job.json is not the record of a job: " in said
    assert "remove the folder" in said

"""What an attempt's outcome says, by what its job left and what Slurm knows of its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegauge.contract.records.base import write
from servegauge.contract.records.job import JobRecord
from servegauge.contract.records.outcome import CellOutcome, Outcome
from servegauge.submit.job_outcome import outcome_of
from servegauge.submit.slurm_commands import JobState
from tests.unit.submit.test_trouble import an_order


@pytest.mark.parametrize(
    ("state", "stopped", "status"),
    [
        ("UNKNOWN", "stopped: the job's time limit is near", "ok"),
        ("UNKNOWN", "stopped: the job got SIGTERM (cancelled, preempted or out of time)", "failed"),
        ("CANCELLED", "stopped: the job's time limit is near", "failed"),
    ],
)
def test_a_job_that_slurm_forgot_is_what_it_left(tmp_path: Path, state: str, stopped: str, status: str) -> None:
    """Then the next attempt goes on by itself (`job: continue`), as where Slurm remembers that it completed."""
    order = an_order(tmp_path)
    cells = {order.cells[0].id: CellOutcome(status="not_run", reason=stopped)}
    left = Outcome(launch=order.launch.id, attempt=0, study="demo", status="ok", reason=stopped, cells=cells)
    write(order.folder / "outcome.json", left)
    record = JobRecord(mode="slurm", state="submitted", job="7", folder="job-1a2b3c4d")
    found = outcome_of(order, record, JobState("7", state), tmp_path / "log")
    assert found.status == status
    assert (found.reason == stopped) == (status == "ok")

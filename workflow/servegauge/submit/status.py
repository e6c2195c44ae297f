"""Where the launches of a study stand: what each attempt's folder says, with the queue's word where Slurm has them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from servegauge.base.text import visible
from servegauge.contract.records.base import DamagedRecord, read_if_there
from servegauge.contract.records.job import JobRecord, Running
from servegauge.contract.records.order import Order, attempt_folder
from servegauge.contract.records.outcome import Outcome
from servegauge.submit.backends import backend
from servegauge.submit.slurm_commands import JobState, Queue, SlurmSilent

QUEUE_S = 30.0  # an older look at the queue is not shown


@dataclass(frozen=True)
class LaunchStatus:
    """A launch that is being tried, or was: `state` is running, pending, submitting or ended.

    `left_s`: seconds until the job's limit; None where it is not known. `doing`: the last line of its progress.
    `failed`: cell -> reason of the last finished attempt.
    """

    launch: str
    attempt: int
    state: str
    job: str | None = None
    node: str | None = None
    reason: str | None = None
    left_s: float | None = None
    doing: str | None = None
    failed: Mapping[str, str] | None = None


def statuses(results: Path, launches: Mapping[str, int], poll_s: float = QUEUE_S) -> tuple[list[LaunchStatus], str]:
    """The launches (id -> finished attempts) that were ever tried, and what is wrong with the queue, if anything."""
    found = []
    jobs: dict[str, JobState] | None = None
    trouble: list[str] = []
    for launch, attempts in launches.items():
        try:
            record = read_if_there(attempt_folder(results, launch, attempts) / "job.json", JobRecord)
        except DamagedRecord as error:
            trouble.append(str(error))
            continue
        if record and record.state != "ended":
            if backend(record.mode).queued and jobs is None:
                try:
                    jobs = Queue(results, poll_s).look()[1]
                except (SlurmSilent, OSError) as error:
                    jobs = {}
                    trouble.append(f"Slurm does not answer: {error}")
            found.append(_running(results, launch, attempts, record, jobs or {}))
        elif attempts:
            found.append(_ended(results, launch, attempts - 1))
    return found, "\n".join(trouble)


def _running(results: Path, launch: str, attempt: int, record: JobRecord, jobs: Mapping[str, JobState]) -> LaunchStatus:
    folder = attempt_folder(results, launch, attempt)
    running = order = None
    with contextlib.suppress(DamagedRecord):  # they say how long it still runs, no more
        running = read_if_there(folder / "running.json", Running)
        order = read_if_there(folder / "order.json", Order)
    queued = jobs.get(record.job or "")
    if record.state == "submitting":
        state = "submitting"
    elif queued is not None:
        state = "pending" if queued.state == "PENDING" else queued.state.lower()
    else:
        state = "running" if running else "pending"
    left = None
    if running and order and order.time_min:
        left = running.started_s + 60.0 * order.time_min - time.time()
    return LaunchStatus(
        launch=launch,
        attempt=attempt,
        state=state,
        job=record.job,
        node=(queued.nodes if queued else None) or (running.nodes if running and state != "pending" else None),
        reason=queued.reason.strip("()") if queued and queued.state == "PENDING" else None,
        left_s=left if state != "pending" else None,
        doing=_last_line(folder / "progress.log"),
    )


def _ended(results: Path, launch: str, attempt: int) -> LaunchStatus:
    try:
        outcome = read_if_there(attempt_folder(results, launch, attempt).with_suffix(".json"), Outcome)
    except DamagedRecord as error:
        return LaunchStatus(launch, attempt, "ended", reason=str(error))
    if outcome is None:
        return LaunchStatus(launch, attempt, "ended")
    failed = {cell: one.reason or "" for cell, one in outcome.cells.items() if one.status == "failed"}
    return LaunchStatus(launch, attempt, "ended", reason=outcome.reason, failed=failed)


def _last_line(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines: Iterable[str] = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    return next((visible(line) for line in reversed(list(lines)) if line.strip()), None)

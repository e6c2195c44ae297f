"""Where the launches of a study stand: what each attempt's folder says, with the queue's word where Slurm has them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servegauge.base.files import read_json
from servegauge.submit.orders import attempt_folder
from servegauge.submit.slurm_commands import JobState, Queue, SlurmSilent

QUEUE_S = 30.0  # an older look at the queue is not shown


@dataclass(frozen=True)
class LaunchStatus:
    """A launch that is being tried, or was: `state` is running, pending, submitting or ended.

    `left_s`: seconds until the job's limit; null where it is not known. `doing`: the last line of its progress.
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
    trouble = ""
    for launch, attempts in launches.items():
        record = _read(attempt_folder(results, launch, attempts) / "job.json")
        if record and record.get("state") != "ended":
            if record.get("mode") == "slurm" and jobs is None:
                try:
                    jobs = Queue(results, poll_s).look()[1]
                except (SlurmSilent, OSError) as error:
                    jobs, trouble = {}, f"Slurm does not answer: {error}"
            found.append(_running(results, launch, attempts, record, jobs or {}))
        elif attempts:
            found.append(_ended(results, launch, attempts - 1))
    return found, trouble


def _running(
    results: Path, launch: str, attempt: int, record: Mapping[str, Any], jobs: Mapping[str, JobState]
) -> LaunchStatus:
    folder = attempt_folder(results, launch, attempt)
    running = _read(folder / "running.json")
    order = _read(folder / "order.json")
    job = str(record["job"]) if record.get("job") is not None else None
    queued = jobs.get(job or "")
    if record.get("state") == "submitting":
        state = "submitting"
    elif queued is not None:
        state = "pending" if queued.state == "PENDING" else queued.state.lower()
    else:
        state = "running" if running else "pending"
    left = None
    if running and order.get("time_min"):
        left = float(running.get("started_s", time.time())) + 60.0 * float(order["time_min"]) - time.time()
    return LaunchStatus(
        launch=launch,
        attempt=attempt,
        state=state,
        job=job,
        node=(queued.nodes if queued else None) or (running.get("nodes") if state != "pending" else None),
        reason=queued.reason.strip("()") if queued and queued.state == "PENDING" else None,
        left_s=left if state != "pending" else None,
        doing=_last_line(folder / "progress.log"),
    )


def _ended(results: Path, launch: str, attempt: int) -> LaunchStatus:
    outcome = _read(attempt_folder(results, launch, attempt).with_suffix(".json"))
    cells = outcome.get("cells") or {}
    failed = {cell: str(said.get("reason") or "") for cell, said in cells.items() if said.get("status") == "failed"}
    return LaunchStatus(launch, attempt, "ended", reason=outcome.get("reason"), failed=failed)


def _read(path: Path) -> dict[str, Any]:
    """The document at `path`; {} where there is none, or none that can be read while it is being written."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _last_line(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines: Iterable[str] = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    return next((line for line in reversed(list(lines)) if line.strip()), None)

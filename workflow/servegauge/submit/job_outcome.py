"""The outcome of an attempt: what its job left, corrected by the cells that are measured, with how the job ended."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from msgspec.structs import replace

from servegauge.base import redact
from servegauge.base.progress import utc, utc_now
from servegauge.base.text import visible
from servegauge.contract.records.base import DamagedRecord, read, read_if_there
from servegauge.contract.records.cell import CellRecord
from servegauge.contract.records.job import JobRecord
from servegauge.contract.records.order import Order, is_measured
from servegauge.contract.records.outcome import CellOutcome, JobSummary, Outcome
from servegauge.submit.backends import backend
from servegauge.submit.slurm_commands import MEANING, JobState


def left(order: Order) -> Outcome | None:
    """What the job's first task left; None where it left nothing, or nothing yet."""
    return read_if_there(order.folder / "outcome.json", Outcome)


def outcome_of(order: Order, record: JobRecord, state: JobState, log: Path) -> Outcome:
    """The outcome of the attempt whose job ended as `state`; `log` is what its first task printed."""
    found = left(order)
    ended = state.state in ("COMPLETED", "RUNNING", "COMPLETING", "ENDED") or _forgotten(state, found)
    # What a job does after an order, another order or its own end, takes nothing from what the order left.
    good = found is not None and (ended or found.ran_through)
    empty = Outcome(launch=order.launch.id, attempt=order.attempt, study=order.study, status="failed", cells={})
    result = found or empty
    reason = result.reason if good else _why(state, backend(record.mode).queued, log)
    return replace(
        result,
        started_utc=result.started_utc or (utc(record.submitted_s) if record.submitted_s else None),
        finished_utc=result.finished_utc or utc_now(),
        status=result.status if good else "failed",
        reason=reason,
        cells={cell.id: _cell(order, cell.id, result.cells.get(cell.id), reason) for cell in order.cells},
        job=JobSummary(
            mode=record.mode,
            job=record.job,
            host=record.host or None,
            folder=record.folder or None,
            # A slow squeue may still call a job running that has left its outcome: then it has completed.
            state="COMPLETED" if found and ended else state.state,
            reason=state.reason or None,
            nodes=state.nodes or None,
            failed_nodes=record.failed_nodes,
        ),
    )


def _forgotten(state: JobState, found: Outcome | None) -> bool:
    """Whether Slurm forgot a job that left its outcome, as some do within seconds, and no signal had ended it."""
    reason = (found.reason if found else None) or ""
    return state.state == "UNKNOWN" and found is not None and not any(name in reason for name in ("SIGTERM", "SIGINT"))


def seal_logs(folder: Path) -> None:
    """Take secrets out of what an attempt left: the job sealed its servers' logs, if nothing killed it, not its own."""
    for log in folder.rglob("*"):
        if log.suffix in (".log", ".out", ".err") and log.is_file():
            redact.seal(log, redact.secret_values(os.environ))


def _cell(order: Order, cell: str, known: CellOutcome | None, reason: str | None) -> CellOutcome:
    """The outcome of one cell, which the job knows as `known`; `reason` is that of the attempt."""
    if is_measured(order.results_folder, cell):
        return CellOutcome(status="ok")
    if known and known.status == "ok":
        return CellOutcome(status="failed", reason=f"it was measured, but results/cells/{cell} is not there")
    if known:
        return known if known.status == "failed" or not reason else replace(known, reason=reason)
    with contextlib.suppress(FileNotFoundError, DamagedRecord):
        failed = read(order.folder / "failed" / cell / "cell.json", CellRecord)
        return CellOutcome(status="failed", reason=failed.reason)
    return CellOutcome(status="not_run", reason=reason)


def _why(state: JobState, queued: bool, log: Path) -> str:
    """How a job that left no outcome ended, for people."""
    if state.state == "NODE_FAIL" and "NODE_FAIL" in state.reason:
        return state.reason
    words = [f"job {state.job} ended as {state.state}" if queued else "its process ended without an outcome"]
    if meaning := MEANING.get(state.state):
        words.append(meaning)
    if state.reason and state.reason not in ("None", "NonZeroExitCode", state.state):
        words.append(state.reason)
    if state.nodes and queued:
        words.append(f"node {state.nodes}")
    if state.state in ("FAILED", "ENDED", "COMPLETED", "UNKNOWN") and (last := _last_line(log)):
        words.append(f"its last line: {last}")
    return "; ".join(words)


def _last_line(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))]
    return visible(redact.text(own[-1])) if own else ""

"""The job of an attempt, looked at again and again until it has ended; what it says of its progress is passed on."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from servegauge.base import redact
from servegauge.base.progress import duration
from servegauge.base.text import visible
from servegauge.contract.records.order import Order
from servegauge.submit.backend import Backend
from servegauge.submit.job_outcome import left
from servegauge.submit.slurm_commands import PENDING, JobState, SlurmSilent

CANCEL_S = 90.0  # a cancelled job may take that long to stop its server and save what it has
LEFT = "asked twice to end: not waiting for job {job}, which is cancelled; the same command takes what it measured"

Say = Callable[[str], None]


def say_to(log: Path | None) -> Say:
    """What says a line on the terminal, and in `log`, whose folder is made; neither may be there any more.

    It repeats words of Slurm and of wrappers around its commands: secrets and control characters are taken out.
    """
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
    kept = log.open("a", encoding="utf-8") if log else None

    known = redact.secret_values(os.environ)

    def say(text: str) -> None:
        text = visible(redact.text(text, known))
        for stream in (sys.stderr, kept):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    print(text, file=stream, flush=True)

    return say


class Watch:
    """One job. `signal` is what asks us to cancel it, 0 for none; `progress` and `said` what was passed on already."""

    def __init__(self, order: Order, submitter: Backend, job: str, submitted_s: float, say: Say) -> None:
        self.order, self.submitter, self.job, self.submitted_s, self.say = order, submitter, job, submitted_s, say
        self.signal = 0
        self.progress = 0  # bytes of progress.log
        self.said = ""
        self._said_s = time.monotonic()
        self._cancelled_s = 0.0
        self._silent = False
        self._state: JobState | None = None

    def look(self) -> JobState | None:
        """How the job ended; None while it has not."""
        self._relay()
        if self.signal:
            self.cancel()
        if self._finished():
            # A job shorter than the time between two questions was never seen but pending.
            pending = self._state is None or self._state.state == "PENDING"
            return JobState(self.job, "COMPLETED") if pending else self._state
        try:
            self._state = self.submitter.state(self.job, self.submitted_s) or self._state
            if self._silent:
                self.say("Slurm answers again")
            self._silent = False
        except SlurmSilent as error:
            if not self._silent:
                self.say(f"Slurm does not answer ({error}); the job goes on without it, waiting")
            self._silent = True
        if self._state and not self._state.live and not self._silent:
            return self._state
        if self._cancelled_s and time.monotonic() - self._cancelled_s > CANCEL_S:
            self.say(f"job {self.job} has not ended {duration(CANCEL_S)} after it was cancelled; leaving it to Slurm")
            return self._state or JobState(self.job, "UNKNOWN")
        line = self._describe()
        if line != self.said or (time.monotonic() - self._said_s > 600 and "pending" in line):
            self.said, self._said_s = line, time.monotonic()
            if line:
                self.say(line)
        return None

    def cancel(self) -> None:
        """Cancel the job, once, and say so."""
        if self._cancelled_s:
            return
        error = self.submitter.cancel(self.job)
        self._cancelled_s = time.monotonic()
        what = f"job {self.job}" if self.submitter.queued else "its process"
        self.say(f"cancelling {what}: this run got {signal.Signals(self.signal).name}")
        if error:
            self.say(f"could not cancel {what}: {error}. Do it by hand: scancel {self.job}")
        self.submitter.queue.poll_s = min(self.submitter.queue.poll_s, 5.0)

    def _finished(self) -> bool:
        """True when the job's outcome is there and final, without asking Slurm.

        An outcome with cells that were not run may be that of a job that Slurm puts back into the queue.
        """
        result = left(self.order)
        return result is not None and not any(cell.status == "not_run" for cell in result.cells.values())

    def _describe(self) -> str:
        """What a person should know of the job's state, or nothing."""
        job, state = self.job, self._state
        if not self.submitter.queued or state is None or state.state == "COMPLETING":
            return ""
        if state.state == "PENDING":
            why = state.reason.strip("()")
            meaning = PENDING.get(why.partition(",")[0], "")  # "ReqNodeNotAvail, UnavailableNodes:n[1-3]"
            return f"job {job} is pending" + (f": {why}{meaning}" if why not in ("", "None") else "")
        return f"job {job} is {state.state.lower()}" + (f" on {state.nodes}" if state.nodes else "")

    def _relay(self) -> None:
        """Pass on what the job says of its progress."""
        with contextlib.suppress(OSError), (self.order.folder / "progress.log").open("rb") as file:
            file.seek(self.progress)
            text = file.read()
            whole = text.rfind(b"\n") + 1
            self.progress += whole
            for line in text[:whole].decode("utf-8", "replace").splitlines():
                self.say(line)

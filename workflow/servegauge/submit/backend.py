"""What a way to a node answers: submit a job, find it again, tell how it is, cancel it.

One file each in `backends/`, found by its class's `name`, which is what `submit:` of a profile says. Each is given the
folder of one submission, `attempt-<k>/job-<token>/` (0700). The token makes it unique, and its path is in what runs: in
the command of a Slurm job as `squeue` shows it, in the command line of a process. So a job is found again even if we
were killed before we could note its number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from servegauge.contract.records.order import Order
from servegauge.submit.slurm_commands import JobState, Queue


class Backend(ABC):
    """One way to run a job. `state` is None while nothing is known; then nothing may be concluded."""

    name: ClassVar[str]
    queued: ClassVar[bool] = False  # a queue knows the job by its number, on whatever machine it runs

    def __init__(self, folder: Path, order: Order, queue: Queue, exclude: Sequence[str] = ()) -> None:
        self.folder, self.order, self.queue, self.exclude = folder, order, queue, exclude

    @classmethod
    def absent(cls) -> str | None:
        """What this machine lacks to submit this way, for a person; None where nothing is missing."""
        return None

    @abstractmethod
    def submit(self) -> str:
        """Start the job; its id. NotSubmitted where that failed, although the job may have been accepted."""

    def find(self) -> str | None:
        """Id of the job that was started from this folder, although its id was not recorded; else None."""
        logs = sorted(self.folder.glob("*_0_log.out"))  # it ran and ended, and the queue has it no more
        return self.living() or (logs[-1].name.partition("_")[0] if logs else None)

    @abstractmethod
    def living(self) -> str | None:
        """The same of a job that the queue has, or this machine."""

    @abstractmethod
    def state(self, job: str, since_s: float) -> JobState | None:
        """How the job is, as far as known; `since_s` is when it was submitted, in seconds since the epoch."""

    @abstractmethod
    def cancel(self, job: str) -> str:
        """Ask the job to end; an error text, or nothing."""

    def log_file(self, job: str) -> Path:
        """What the job's first task printed, under the name that submitit gives it."""
        return self.folder / f"{job}_0_log.out"

    def call(self) -> tuple[str, str]:
        """Arguments of `entrypoint.run_order`: the order's file and the function that the order names."""
        return str(self.folder.parent / "order.json"), self.order.run

"""How an attempt was submitted and what became of its job: `job.json`; and what runs it: `running.json`."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

import msgspec

from servegauge.contract.records.base import Record
from servegauge.contract.records.order import ATTEMPT_REMEDY

FOLDER = re.compile(r"job-[0-9a-f]+")


class JobEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended, in Slurm's words."""

    job: str
    state: str
    reason: str = ""
    nodes: str = ""


class JobRecord(Record, frozen=True, kw_only=True):
    """The submission of one attempt, from before the moment it is submitted. `folder` is in the attempt's folder."""

    WHAT: ClassVar[str] = "the record of a job"
    REMEDY: ClassVar[str] = ATTEMPT_REMEDY

    mode: str  # the backend that submitted it
    state: Literal["new", "submitting", "submitted", "ended"]
    folder: str = ""
    host: str = ""
    submitted_s: float | None = None  # seconds since the epoch
    job: str | None = None
    ended: JobEnd | None = None
    failed_nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Nothing outside the attempt's folder is read, whatever a file says."""
        if self.state != "new" and not FOLDER.fullmatch(self.folder):
            raise ValueError(f"its folder is {self.folder!r}, and it must be a name like job-1a2b3c4d")
        if self.state == "ended" and self.ended is None:
            raise ValueError("its state is ended, and it does not say how")


class Left(Record, frozen=True, kw_only=True):
    """`left-<job>.json`: that job found another one that measures the attempt, and stopped."""

    WHAT: ClassVar[str] = "the word of a job that stopped"
    REMEDY: ClassVar[str] = ATTEMPT_REMEDY

    to: str


class Running(Record, frozen=True, kw_only=True):
    """Who runs an attempt: the job's number and start, the node and process of the first task, all of its nodes."""

    WHAT: ClassVar[str] = "the record of a running job"
    REMEDY: ClassVar[str] = "Remove it: it only helps to tell a node that failed."

    job: str | None = None
    start: int = 0
    host: str = ""
    pid: int = 0
    nodes: str
    number_of_nodes: int = 1
    started_s: float  # seconds since the epoch

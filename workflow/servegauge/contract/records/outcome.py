"""What became of an attempt: `outcome.json`, left by the job, and `attempt-<k>.json`, which says that it is over."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from servegauge.contract.records.base import Record

Status = Literal["ok", "failed", "not_run"]


class CellOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one cell: `reason` is None for one that is ok; `flags` are names of its flags."""

    status: Status
    reason: str | None = None
    flags: tuple[str, ...] = ()


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The job that it was, for people and the dataset."""

    mode: str
    job: str | None = None
    host: str | None = None
    folder: str | None = None
    state: str | None = None
    reason: str | None = None
    nodes: str | None = None
    failed_nodes: tuple[str, ...] = ()


class Outcome(Record, frozen=True, kw_only=True):
    """Every cell that was ordered, ok, failed or not run, each with its reason. `job` is None in what a job leaves."""

    WHAT: ClassVar[str] = "the outcome of an attempt"
    REMEDY: ClassVar[str] = (
        "Remove it and give the same command again: measured cells are found in results/cells/, and what is missing "
        "is measured."
    )

    launch: str
    attempt: int
    study: str
    status: Literal["ok", "failed"]
    reason: str | None = None
    cells: dict[str, CellOutcome]
    started_utc: str | None = None
    finished_utc: str | None = None
    job: JobSummary | None = None
    failed_nodes: tuple[str, ...] = ()
    answer: dict[str, Any] = msgspec.field(default_factory=dict)  # what `Order.run` says beside the cells

    @property
    def ran_through(self) -> bool:
        """True where the order came to its end, whatever became of its cells: the job had the time for all of them."""
        stopped = self.status == "ok" and self.reason
        return not stopped and all(cell.status != "not_run" for cell in self.cells.values())

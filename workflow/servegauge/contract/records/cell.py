"""What one cell measured and how: `cell.json`, written last, which vouches for every file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from servegauge.contract.records.base import Record
from servegauge.contract.records.specs import CellSpec


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """A doubt: `value` crossed `threshold`, and `detail` says so in words."""

    flag: str
    value: float | None = None
    threshold: float | None = None
    detail: str = ""


class FileHash(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was written."""

    sha256: str
    bytes: int


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """Where time 0 of the tables lies on the monotonic clock, and what to add to that clock for the epoch, then."""

    window_start_ns: int | None = None
    epoch_offset_start_ns: int | None = None
    epoch_offset_end_ns: int | None = None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted over, and what was around it; `exhausted_ns`: when the load ran out, from its start.

    Under measuring protocol 1, the window lasted from the first scheduled request to the last answer.
    """

    duration_s: float | None
    ramp_s: float | None = None
    tail_s: float | None = None
    exhausted_ns: int | None = None


class CellRecord(Record, frozen=True, kw_only=True):
    """A measured cell, or one that failed: then what was not reached is null.

    `instrument`, `scraper`, `sampler` and `node` are what those say of themselves; nothing but people depends on more
    than the dataset takes of them.
    """

    WHAT: ClassVar[str] = "the record of a cell"
    REMEDY: ClassVar[str] = "Remove the folder {folder} and give the same command again: the cell is measured again."

    cell: str
    launch: str
    attempt: int
    study: str = ""
    protocol: int = 1
    workload: str = ""
    workload_sha256: str | None = None
    spec: CellSpec
    status: Literal["ok", "failed"] = "ok"
    reason: str | None = None
    started_utc: str | None = None
    finished_utc: str | None = None
    flags: tuple[Flag, ...] = ()
    files: dict[str, FileHash]
    clock: Clock | None = None
    window: Window | None = None
    cache_reset: Mapping[str, Any] | None = None
    instrument: Mapping[str, Any] | None = None
    scraper: Mapping[str, Any] | None = None
    sampler: Mapping[str, Any] | None = None
    node: Mapping[str, Any] | None = None
    metrics_before: dict[str, float | None] | None = None
    metrics_after: dict[str, float | None] | None = None

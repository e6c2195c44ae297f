"""What one cell measured and how: `cell.json`, written last, which vouches for every file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import msgspec

from servegauge.contract.records.base import Migration, Record
from servegauge.contract.records.specs import CellSpec


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """A doubt: `value` (a number, or what a server reports) crossed `threshold`; `detail` says so in words."""

    flag: str
    value: Any = None
    threshold: Any = None
    detail: str = ""


class FileHash(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was written."""

    sha256: str
    bytes: int

    def damage(self, name: str, found: FileHash) -> str | None:
        """How the file `name`, as found, is not the one that was written; None where it is."""
        if found.bytes != self.bytes:
            return f"{name} has {found.bytes} bytes, {self.bytes} were written"
        if found.sha256 != self.sha256:
            return f"{name} does not have the SHA-256 with which it was written"
        return None


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """Where time 0 of the tables is on the monotonic clock, and what to add to that clock for the epoch, then."""

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


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a search for the capacity found: the highest rate that attained and the lowest that did not; null: none.

    `step` is the rate whose requests the cell keeps as its own, numbered as they were tried.
    """

    slo: str
    limits: Mapping[str, float]
    share: float
    precision: float
    low_rps: float | None
    high_rps: float | None
    step: int


class Measured(Record, frozen=True, kw_only=True):
    """What every cell leaves, timed or traced; where it failed, what was not reached is None.

    `instrument`, `recorders` and `node` are what those say of themselves; nothing but people depends on more than the
    flags and the dataset take of them.
    """

    NEWER: ClassVar[str] = "Update servegauge: a newer one measured it. It stays as it is, and is left out."

    attempt: int = 0
    study: str = ""
    protocol: int = 1
    workload: str = ""
    workload_sha256: str | None = None
    spec: CellSpec | None = None
    status: Literal["ok", "failed"] = "ok"
    reason: str | None = None
    started_utc: str | None = None
    finished_utc: str | None = None
    flags: tuple[Flag, ...] = ()
    files: dict[str, FileHash] = msgspec.field(default_factory=dict)
    clock: Clock | None = None
    window: Window | None = None
    capacity: Capacity | None = None
    cache_reset: Mapping[str, Any] | None = None
    reset_s: float | None = None  # resetting prefix caches took so long, all resets
    instrument: Mapping[str, Any] | None = None
    recorders: Mapping[str, Mapping[str, Any]] = msgspec.field(default_factory=dict)
    node: Mapping[str, Any] | None = None
    metrics_before: dict[str, float | None] | None = None
    metrics_after: dict[str, float | None] | None = None
    metrics_unreadable: str | None = None
    prompt_opening_tokens: int | None = None


def _with_recorders(document: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had a field for each of its two recorders at first."""
    old = {name: document[name] for name in ("scraper", "sampler") if document.get(name)}
    return {**document, "recorders": {**old, **(document.get("recorders") or {})}}


class CellRecord(Measured, frozen=True, kw_only=True):
    """A measured cell, or one that failed."""

    WHAT: ClassVar[str] = "the record of a cell"
    REMEDY: ClassVar[str] = "Remove the folder {folder} and give the same command again: the cell is measured again."
    VERSION: ClassVar[int] = 2
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {1: _with_recorders}

    version: int = 2
    cell: str
    launch: str
    attempt: int
    spec: CellSpec
    files: dict[str, FileHash]

"""What happened in one attempt of a launch: `launch.json`, alone enough to answer what made a number."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from servegauge.contract.records.base import Record
from servegauge.contract.records.cell import Flag
from servegauge.contract.records.order import ATTEMPT_REMEDY
from servegauge.contract.records.outcome import CellOutcome
from servegauge.contract.records.specs import LaunchSpec


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One server: how it was started, and what it says of itself (`evidence`: the fields of frameworks' Evidence)."""

    argv: tuple[str, ...] = ()
    environment: dict[str, Any] = msgspec.field(default_factory=dict)
    ready_s: float | None = None
    version: str | None = None
    compile_cache: Literal["cold", "warm"] | None = (
        None  # warm: a server of this configuration got ready with it before
    )
    compile_cache_reason: str | None = None  # why nothing of it is kept for the next launch
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)


class ServerStart(msgspec.Struct, frozen=True, kw_only=True):
    """Every instance started once; `ready_s` is the slowest one's time from its start until it answered."""

    utc: str
    ready_s: float
    instances: tuple[Instance, ...] = ()


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """Power of the launch's GPUs together, W, with the servers up and nothing to do; None with the reason.

    `source` and `error` as `contract.energy` gives them, over `duration_s`.
    """

    power_w: float | None = None
    source: str | None = None
    error: float | None = None
    duration_s: float | None = None
    reason: str | None = None


class LaunchRecord(Record, frozen=True, kw_only=True):
    """A launch as it went so far; `status` is None until it is over. `provenance`: see docs/provenance.md."""

    WHAT: ClassVar[str] = "the record of a launch"
    REMEDY: ClassVar[str] = ATTEMPT_REMEDY

    launch: str
    attempt: int
    study: str = ""
    spec: LaunchSpec
    started_utc: str | None = None
    finished_utc: str | None = None
    server_starts: tuple[ServerStart, ...] = ()
    flags: tuple[Flag, ...] = ()
    idle: Idle | None = None
    # what else the job's time went to -> seconds, while no server started and no cell was measured
    spent_s: dict[str, float] = msgspec.field(default_factory=dict)
    provenance: dict[str, Any] = msgspec.field(default_factory=dict)
    status: Literal["ok", "failed"] | None = None
    reason: str | None = None
    cells: dict[str, CellOutcome] = msgspec.field(default_factory=dict)

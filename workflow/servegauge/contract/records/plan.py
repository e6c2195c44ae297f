"""A study, resolved and expanded: `results/plan/<study>.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from servegauge.contract.records.base import Record
from servegauge.contract.records.order import JobSettings
from servegauge.contract.records.specs import CellSpec, LaunchSpec, WorkloadSpec


class PlanDocument(Record, frozen=True, kw_only=True):
    """Launches in the order in which they run, cells in the order of their launches, then of running.

    A trace looks like a cell, on a launch of its own that looks like a launch: `trace_launches`, `traces`.

    `study` is the study's file with every file that it names, as `plan.config` resolves it.
    """

    WHAT: ClassVar[str] = "a plan"
    REMEDY: ClassVar[str] = "Write it with: python scripts/write_plan.py {name} --out {path}"

    study: Mapping[str, Any]
    launches: tuple[LaunchSpec, ...]
    cells: tuple[CellSpec, ...]
    workloads: tuple[WorkloadSpec, ...] = ()
    trace_launches: tuple[LaunchSpec, ...] = ()
    traces: tuple[CellSpec, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.study.get("name"), str):
            raise ValueError("its study has no name")

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.study["name"])

    @property
    def job(self) -> JobSettings:
        """`job:` of the study."""
        return msgspec.convert(self.study.get("job") or {}, JobSettings)

"""Launches, cells and workloads as they stand in documents: with the id that names their folder.

`contract.spec` computes an id from what a thing is. A document keeps the id that the thing got when it was planned.
"""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import msgspec

from servegauge.base.errors import UserError
from servegauge.contract.config_types import ModelData, PlatformData, PromptsData
from servegauge.contract.records.base import Record
from servegauge.contract.spec import Cell, Data, Launch, Layout, Load, Workload


class LaunchSpec(Record, frozen=True, kw_only=True):
    """A launch with its id; alone in `spec.json`."""

    WHAT: ClassVar[str] = "the specification of a launch"
    REMEDY: ClassVar[str] = "Remove it: the next attempt of the launch writes it again."

    id: str
    configuration: str = ""
    framework: str
    model: ModelData
    platform: PlatformData
    layout: Layout
    options: Data = msgspec.field(default_factory=dict)
    extra_args: tuple[str, ...] = ()
    environment: Data = msgspec.field(default_factory=dict)
    repeat: int = 1
    trace: Data | None = None

    @classmethod
    def of(cls, launch: Launch) -> LaunchSpec:
        fields = {name: getattr(launch, name) for name in Launch.__dataclass_fields__}
        return cls(id=launch.id, configuration=launch.configuration, **fields)

    @property
    def launch(self) -> Launch:
        """What it is. Its id is computed anew."""
        return Launch(**{name: getattr(self, name) for name in Launch.__dataclass_fields__})


class WorkloadSpec(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A workload with its id."""

    id: str
    prompts: PromptsData
    tokenizer: ModelData
    load: Data
    repeat: int | None = None
    version: int = 1

    @classmethod
    def of(cls, workload: Workload) -> WorkloadSpec:
        fields = {name: getattr(workload, name) for name in Workload.__dataclass_fields__}
        return cls(id=workload.id, **fields)

    @cached_property
    def workload(self) -> Workload:
        """What it is; cached, because many cells share it."""
        return Workload(**{name: getattr(self, name) for name in Workload.__dataclass_fields__})


class CellSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A cell with its id. `skipped` is why it cannot work, or None; `thresholds` are those of its flags."""

    id: str
    launch: str
    words: str = ""
    prompts: PromptsData
    load: Load
    workload: WorkloadSpec
    protocol: int = 1
    skipped: str | None = None
    thresholds: dict[str, float] = msgspec.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        cell: Cell,
        skipped: str | None = None,
        thresholds: dict[str, float] | None = None,
        workload: WorkloadSpec | None = None,
    ) -> CellSpec:
        """The cell in a document; `workload` is its workload's, where there is one already."""
        return cls(
            id=cell.id,
            launch=cell.launch,
            words=cell.words,
            prompts=cell.prompts,
            load=cell.load,
            workload=workload or WorkloadSpec.of(cell.workload),
            protocol=cell.protocol,
            skipped=skipped,
            thresholds=thresholds or {},
        )

    @property
    def cell(self) -> Cell:
        """What it is; UserError where that has another id today: it would be measured under a wrong name."""
        cell = Cell(self.launch, self.words, self.prompts, self.load, self.workload.workload, self.protocol)
        if cell.id != self.id:
            raise UserError(
                f"the cell {self.id} is called {cell.id} by this servegauge: its plan was edited, or written by "
                "another version. Write the plan again with: python scripts/write_plan.py STUDY "
                "--out results/plan/STUDY.json"
            )
        return cell

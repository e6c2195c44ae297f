"""A study's launches and cells, in the order in which they run; `expand` makes it, a plan's document keeps it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract.records.plan import PlanDocument
from servegauge.contract.spec import AGAIN, Cell, Data, Launch, Workload


@dataclass(frozen=True)
class PlannedCell:
    """A cell of the study; `skipped` is the reason why it cannot work, or None."""

    cell: Cell
    skipped: str | None = None


@dataclass(frozen=True)
class Plan:
    """Launches in the order in which they are to run, and cells in the order of their launches, then of running."""

    study: dict[str, Any]
    launches: list[Launch]
    cells: list[PlannedCell]
    trace_launches: list[Launch] = field(default_factory=list)  # one for each of `traces`, in their order
    traces: list[PlannedCell] = field(default_factory=list)

    @property
    def every_launch(self) -> list[Launch]:
        """The launches of cells, then those of traces."""
        return [*self.launches, *self.trace_launches]

    @cached_property
    def _by_launch(self) -> dict[str, list[PlannedCell]]:
        found: dict[str, list[PlannedCell]] = {launch.id: [] for launch in self.every_launch}
        for planned in (*self.cells, *self.traces):
            found[planned.cell.launch].append(planned)
        return found

    @cached_property
    def _launch_by_id(self) -> dict[str, Launch]:
        return {launch.id: launch for launch in self.every_launch}

    @cached_property
    def _cell_by_id(self) -> dict[str, PlannedCell]:
        return {planned.cell.id: planned for planned in self.cells}

    def launch(self, launch_id: str) -> Launch:
        """The launch with this id."""
        return self._launch_by_id[launch_id]

    def cell(self, cell_id: str) -> PlannedCell:
        """The cell with this id; UserError where the study has none such."""
        if cell_id not in self._cell_by_id:
            near = did_you_mean(cell_id, self._cell_by_id)
            raise UserError(f"the study {self.study['name']!r} has no cell {cell_id!r}.{near}")
        return self._cell_by_id[cell_id]

    def cells_of(self, launch_id: str) -> list[PlannedCell]:
        """Cells of a launch in the order in which they run."""
        return self._by_launch[launch_id]

    @cached_property
    def workloads(self) -> list[Workload]:
        """Every workload that a cell to be measured needs, once."""
        needed = {id(planned.cell.workload): planned.cell.workload for planned in self.cells if not planned.skipped}
        return list({workload.id: workload for workload in needed.values()}.values())

    def selected(self, pattern: str) -> Plan:
        """The plan with only those cells and traces whose id matches the glob `pattern`, and their launches."""
        if pattern == "*":
            return self
        cells = [planned for planned in self.cells if fnmatch.fnmatchcase(planned.cell.id, pattern)]
        traces = [planned for planned in self.traces if fnmatch.fnmatchcase(planned.cell.id, pattern)]
        if not cells and not traces:
            some = ", ".join(planned.cell.id for planned in self.cells[:3])
            raise UserError(f"no cell of the study {self.study['name']!r} matches {pattern!r}; its ids are like {some}")
        return self._of_launches({planned.cell.launch for planned in (*cells, *traces)}, cells, traces)

    def on_platforms(self, names: str | Iterable[str]) -> Plan:
        """The plan with only the launches on these platforms (names with commas, or several); all where none is named.

        UserError where the study has no such platform. A baseline's second name under `aa:` goes with it.
        """
        wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names) if name.strip()]
        if not wanted:
            return self
        known = self.study["platforms"]
        for name in wanted:
            if name not in known:
                raise UserError(
                    f"--config platforms: the study {self.study['name']!r} has no platform {name!r}; it has "
                    f"{', '.join(known)}.{did_you_mean(name, known)}"
                )
        chosen = {one.id for one in self.every_launch if one.platform["name"].removesuffix(AGAIN) in wanted}
        return self._of_launches(chosen, self.cells, self.traces)

    def _of_launches(self, chosen: set[str], cells: list[PlannedCell], traces: list[PlannedCell]) -> Plan:
        return Plan(
            self.study,
            [launch for launch in self.launches if launch.id in chosen],
            [planned for planned in cells if planned.cell.launch in chosen],
            [launch for launch in self.trace_launches if launch.id in chosen],
            [planned for planned in traces if planned.cell.launch in chosen],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for results/plan/<study>.json; `from_dict` gives the plan back."""
        thresholds = dict(self.study.get("validity", {}))

        def plain(cells: Iterable[PlannedCell]) -> list[dict[str, Any]]:
            return [{**one.cell.to_dict(), "skipped": one.skipped, "thresholds": thresholds} for one in cells]

        data = {
            "version": PlanDocument.VERSION,
            "study": self.study,
            "launches": [launch.to_dict() for launch in self.launches],
            "cells": plain(self.cells),
            "workloads": [workload.to_dict() for workload in self.workloads],
        }
        if self.traces:
            data["trace_launches"] = [launch.to_dict() for launch in self.trace_launches]
            data["traces"] = plain(self.traces)
        return data

    @classmethod
    def from_dict(cls, data: Data) -> Plan:
        """The plan that `to_dict` wrote."""
        return cls(
            study=dict(data["study"]),
            launches=[Launch.from_dict(launch) for launch in data["launches"]],
            cells=[PlannedCell(Cell.from_dict(cell), cell["skipped"]) for cell in data["cells"]],
            trace_launches=[Launch.from_dict(launch) for launch in data.get("trace_launches", ())],
            traces=[PlannedCell(Cell.from_dict(cell), cell["skipped"]) for cell in data.get("traces", ())],
        )

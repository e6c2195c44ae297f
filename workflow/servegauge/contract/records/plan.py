"""A study, resolved and expanded: `results/plan/<study>.json`."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import ClassVar

import msgspec

from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract.config_types import StudyData
from servegauge.contract.records.base import Record
from servegauge.contract.records.order import JobSettings
from servegauge.contract.records.specs import CellSpec, LaunchSpec, WorkloadSpec
from servegauge.contract.spec import AGAIN


class Plan(Record, frozen=True, kw_only=True, dict=True):
    """Launches in the order in which they run, cells in the order of their launches, then of running.

    A trace looks like a cell, on a launch of its own that looks like a launch: `trace_launches`, in the order of
    `traces`. `workloads` are those that a cell to be measured needs, each once.

    `study` is the study's file with every file that it names, as `plan.config` resolves it.
    """

    WHAT: ClassVar[str] = "a plan"
    REMEDY: ClassVar[str] = "Write it with: python scripts/write_plan.py {name} --out {path}"

    study: StudyData
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

    @property
    def every_launch(self) -> tuple[LaunchSpec, ...]:
        """The launches of cells, then those of traces."""
        return (*self.launches, *self.trace_launches)

    @property
    def every_cell(self) -> tuple[CellSpec, ...]:
        """The cells, then the traces."""
        return (*self.cells, *self.traces)

    @cached_property
    def _launch_by_id(self) -> dict[str, LaunchSpec]:
        return {launch.id: launch for launch in self.every_launch}

    @cached_property
    def _cell_by_id(self) -> dict[str, CellSpec]:
        return {cell.id: cell for cell in self.every_cell}

    @cached_property
    def _by_launch(self) -> dict[str, list[CellSpec]]:
        found: dict[str, list[CellSpec]] = {launch.id: [] for launch in self.every_launch}
        for cell in self.every_cell:
            found.setdefault(cell.launch, []).append(cell)
        return found

    def launch(self, launch: str) -> LaunchSpec:
        """The launch with this id; UserError names the nearest one."""
        if launch not in self._launch_by_id:
            near = did_you_mean(launch, self._launch_by_id)
            raise UserError(f"study {self.name!r} has no launch {launch!r}.{near}")
        return self._launch_by_id[launch]

    def cell(self, cell: str) -> CellSpec:
        """The cell, or the trace, with this id; UserError names the nearest one."""
        if cell not in self._cell_by_id:
            raise UserError(f"study {self.name!r} has no cell {cell!r}.{did_you_mean(cell, self._cell_by_id)}")
        return self._cell_by_id[cell]

    def cells_of(self, launch: str) -> list[CellSpec]:
        """Cells of a launch in the order in which they run."""
        return self._by_launch[launch]

    def selected(self, pattern: str) -> Plan:
        """The plan with only those cells and traces whose id matches the glob `pattern`, and their launches."""
        if pattern == "*":
            return self
        chosen = {cell.launch for cell in self.every_cell if fnmatch.fnmatchcase(cell.id, pattern)}
        if not chosen:
            some = ", ".join(cell.id for cell in self.cells[:3])
            raise UserError(f"no cell of the study {self.name!r} matches {pattern!r}; its ids are like {some}")
        return self._of_launches(chosen, pattern)

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
                    f"--config platforms: the study {self.name!r} has no platform {name!r}; it has "
                    f"{', '.join(known)}.{did_you_mean(name, known)}"
                )
        return self._of_launches(
            {one.id for one in self.every_launch if one.platform["name"].removesuffix(AGAIN) in wanted}
        )

    def _of_launches(self, chosen: set[str], pattern: str = "*") -> Plan:
        """What is left of the plan with these launches, and their cells that match `pattern`."""

        def kept(cells: Sequence[CellSpec]) -> tuple[CellSpec, ...]:
            return tuple(one for one in cells if one.launch in chosen and fnmatch.fnmatchcase(one.id, pattern))

        cells = kept(self.cells)
        return msgspec.structs.replace(
            self,
            launches=tuple(one for one in self.launches if one.id in chosen),
            cells=cells,
            workloads=needed(cells),
            trace_launches=tuple(one for one in self.trace_launches if one.id in chosen),
            traces=kept(self.traces),
        )


def needed(cells: Iterable[CellSpec]) -> tuple[WorkloadSpec, ...]:
    """Every workload that a cell to be measured needs, once."""
    return tuple({cell.workload.id: cell.workload for cell in cells if not cell.skipped}.values())

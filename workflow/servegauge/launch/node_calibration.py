"""The instrument's own error on the node of a launch: which loads are calibrated, on which CPUs, and what is kept.

Where the load generator has CPUs that no server uses, and one to spare for the paced server, a launch calibrates while
its servers start (`aside`); else before any of them is there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from servegauge import __version__
from servegauge.base.errors import UserError
from servegauge.contract.records.base import read, read_if_there, write
from servegauge.contract.records.calibration import Calibration
from servegauge.contract.records.specs import CellSpec
from servegauge.contract.records.workload import WorkloadRecord
from servegauge.contract.spec import Launch, Load, digest
from servegauge.instrument import calibrate
from servegauge.instrument.capacity import range_of
from servegauge.instrument.carried import carries, merged


@dataclass
class NodeCalibration:
    """`found` holds what `measure` has measured. `once`: points that a launch before carried here are not measured."""

    launch: Launch
    cells: Sequence[CellSpec]
    results: Path
    folder: Path  # the attempt's
    once: bool
    say: Callable[[str], None]
    found: Calibration = field(init=False)

    @property
    def aside(self) -> bool:
        """Whether the load generator has CPUs that no server uses, and one of them to spare for the paced server."""
        load, serving = self.launch.placement.load_cpus, self.launch.placement.server_cpus
        return len(load) > 2 and bool(serving) and not set(load) & set(serving)

    @property
    def all_carried(self) -> bool:
        return all(carries(point) for point in self.found.points)

    def measure(self, again: bool = False) -> None:
        """Measure the points of this launch; `again`: those that the instrument was not seen to carry."""
        cpus, server_cpus = self.launch.placement.load_cpus, self.launch.placement.server_cpus
        if self.aside:
            cpus, server_cpus = cpus[:-1], cpus[-1:]
        kept = self.results / "calibrations" / f"{_instrument(cpus, server_cpus)}.json"
        before = read_if_there(kept, Calibration) if self.once else None
        known = self.found if again else before
        where = ", again where it was not seen to carry the load" if again else ", where launches before have not"
        self.say(f"calibrating the load generator on this node{where if known else ''}")
        points = calibrate.short_points(list(self._loads()))
        self.found = calibrate.calibrate(True, cpus, self.folder / "calibration.json", server_cpus, points, known=known)
        write(kept, merged(before, self.found))

    def _loads(self) -> Iterator[tuple[Load, float | None]]:
        """The load of each cell with its mean prompt length in tokens; None where the workload does not tell."""
        for cell in self.cells:
            prompt = None
            with contextlib.suppress(OSError, UserError):
                workload = read(self.results / "workloads" / cell.workload.id / "workload.json", WorkloadRecord)
                prompt = workload.prompt_tokens.mean
            asked = cell.load.capacity
            rates = [cell.load.rate_rps] if asked is None else range_of(asked["first_rps"], asked["most_rps"])
            for rate in rates:
                yield replace(cell.load, rate_rps=rate, capacity=None), prompt


def _instrument(cpus: Sequence[int], server_cpus: Sequence[int]) -> str:
    """What a calibration holds for: this node since its boot, CPUs, this version of the generator."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text(encoding="ascii").strip() if boot.exists() else "unknown"
    allowed, placed = sorted(os.sched_getaffinity(0)), (cpus or None, server_cpus or None)
    return digest([os.uname().nodename, started, allowed, placed, __version__, Calibration.VERSION], 12)

"""From a study to its launches and cells: pure, and fast enough for a hundred thousand cells.

The order is part of the design of the experiment: a *block* is one repeat of everything but the compared factor (where
that is no axis of launches: but the platform). Launches of a block stand together, so that a drift in time meets all
levels of a comparison. Their places are balanced over repeats (`order.positions`), so that none is first more often.
Blocks of a repeat are shuffled, and so are the cells of a launch, the same way on every level of the block. The
shuffles come from the study's seed, and adding an axis value does not change the order of the others.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from servegauge.base.errors import UserError
from servegauge.contract.config_types import Prompts, Study
from servegauge.contract.records.plan import Plan, needed
from servegauge.contract.records.specs import CellSpec, LaunchSpec, WorkloadSpec
from servegauge.contract.spec import AGAIN, Cell, Data, Launch, Layout, Load, Workload, canonical_json
from servegauge.frameworks import framework
from servegauge.frameworks.base import OPTIONS
from servegauge.plan import stop
from servegauge.plan.axes import CELL_AXES, LAUNCH_AXES, LAYOUT, SIZES, SPEED, at_speed
from servegauge.plan.order import positions
from servegauge.plan.skipped import cell_skipped, launch_skipped


def expand(study: Study) -> Plan:
    """Launches and cells of `study`, as `config.load_study` gives it, and its traces."""
    plan = _Expansion(study).plan()
    return with_traces(plan) if study.get("trace") else plan


def with_traces(plan: Plan) -> Plan:
    """The plan with a trace of each cell that `trace.cells` chooses: the same load on a launch of its own.

    Each trace is a launch, because a profiler slows its server from its start on, and a server that it ends takes no
    other trace with it. The baseline's second launches (`aa`) are not traced, nor cells that cannot work.
    """
    asked = plan.study["trace"]
    how = {name: value for name, value in asked.items() if name != "cells"}
    chosen = [one for one in plan.cells if fnmatch.fnmatchcase(one.id, asked["cells"])]
    if not chosen:
        some = ", ".join(one.id for one in plan.cells[:3])
        raise UserError(
            f"{plan.study['path']}: trace.cells: {asked['cells']!r} matches no cell; their ids are like {some}"
        )
    if "graphs" in asked and asked["profiler"] != "nsys":
        raise UserError(
            f"{plan.study['path']}: trace.graphs: {asked['graphs']!r} is for nsys; {asked['profiler']} always records "
            "the kernels of a graph. Leave it out, or set trace.profiler: nsys"
        )
    launches, traces = [], []
    for one in chosen:
        timed = plan.launch(one.launch)
        if one.skipped or timed.platform["name"].endswith(AGAIN):
            continue
        launch = replace(timed.launch, trace={**how, "cell": one.id})
        launches.append(LaunchSpec.of(launch))
        cell = Cell.of(launch, one.prompts, one.load, one.workload.workload)
        search = "a search for the capacity is many loads: trace a cell at a rate" if cell.load.capacity else None
        why = search or framework(launch.framework).untraceable(launch)
        traces.append(CellSpec.of(cell, why, one.thresholds, one.workload))
    return msgspec.structs.replace(plan, trace_launches=tuple(launches), traces=tuple(traces))


MOST_LETTERS = 200  # of a cell's id; 255 is what file systems take, and a cell in the making has a longer name


def _left_out(name: str, value: Any) -> bool:
    """Whether an option is not given: `none` where the others are mappings is so on an axis."""
    return value is None or (name in ("speculative", "lora") and value == "none")


class _Expansion:
    """One expansion: the study, and what its many cells share."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.seed = study["load"]["seed"]
        self.repeats = range(1, stop.repeats(study) + 1)
        self.loads: dict[tuple[Any, ...], Load] = {}
        self.thresholds = study.get("validity", {})
        self.workloads: dict[tuple[Any, ...], WorkloadSpec] = {}
        # (repeat, block) -> launch id -> (launch, cell id -> cell)
        self.blocks: dict[tuple[int, str], dict[str, tuple[Launch, dict[str, CellSpec]]]] = {}
        self.order: dict[str, str] = {}  # cell id -> what it is sorted by
        self.level: dict[str, str] = {}  # launch id -> its level of the factor
        factor = (study.get("compare") or {}).get("factor", "platform")
        self.factor = factor if factor in LAUNCH_AXES else "platform"

    def plan(self) -> Plan:
        matrix = {key: value for key, value in self.study["matrix"].items() if key not in ("include", "exclude")}
        self.add(matrix, self.study["matrix"].get("exclude", []))
        for entry in self.study["matrix"].get("include", []):
            replaced = {*SIZES, SPEED} if entry.keys() & {*SIZES, SPEED} else set()
            self.add({**{key: value for key, value in matrix.items() if key not in replaced}, **entry}, [])

        launches: list[LaunchSpec] = []
        cells: list[CellSpec] = []
        for (repeat, block), members in sorted(self.blocks.items(), key=lambda item: self.place_of_block(*item[0])):
            for launch_id in self.placed(members, repeat, block):
                launch, own = members[launch_id]
                launches.append(LaunchSpec.of(launch))
                cells.extend(own[cell_id] for cell_id in self.shuffled(own, repeat, block))
        _check_unique(launch.id for launch in launches)
        _check_unique(cell.id for cell in cells)
        for cell in cells:
            if len(cell.id) > MOST_LETTERS:
                raise UserError(
                    f"{self.study['path']}: the name of the cell {cell.id} has {len(cell.id)} letters, "
                    f"and {MOST_LETTERS} fit into a file name. Shorten the name of its model, platform or prompt "
                    "set."
                )
        return Plan(study=self.study, launches=tuple(launches), cells=tuple(cells), workloads=needed(cells))

    def place_of_block(self, repeat: int, block: str) -> tuple[int, str]:
        return repeat, _shuffle(self.seed, "block", repeat, block)

    def placed(self, members: Iterable[str], repeat: int, block: str) -> list[str]:
        """Launches of a block in the order in which they run: which level is which is drawn, once for all repeats."""
        drawn = sorted(members, key=lambda launch_id: _shuffle(self.seed, block, self.level[launch_id]))
        return [drawn[index] for index in positions(len(drawn), repeat)]

    def shuffled(self, cells: Iterable[str], repeat: int, block: str) -> list[str]:
        return sorted(cells, key=lambda cell_id: _shuffle(self.seed, repeat, block, self.order[cell_id]))

    def add(self, matrix: Mapping[str, Any], exclude: list[Mapping[str, Any]]) -> None:
        """Add the combinations of `matrix` that `exclude` does not take out."""
        split = [
            (
                {axis: values for axis, values in entry.items() if axis in LAUNCH_AXES},
                {axis: values for axis, values in entry.items() if axis in CELL_AXES},
            )
            for entry in exclude
        ]
        points = list(_points(matrix, self.study.get("recorded_rps") or {}))
        for combination in _combinations(matrix):
            out = [cell for launch, cell in split if _fits(combination, launch)]
            wanted = [point for point in points if not any(_fits(point, conditions) for conditions in out)]
            if wanted:
                self.add_launches(combination, wanted)

    def add_launches(self, combination: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> None:
        first = self.launch(combination, self.repeats[0])
        reason = launch_skipped(first, self.study)
        skipped = [reason or cell_skipped(first, self.prompts(point), self.load(point)) for point in points]
        block = canonical_json({axis: value for axis, value in combination.items() if axis != self.factor})
        level = combination.get(self.factor)
        self.add_repeats(combination, points, skipped, block, canonical_json(level), again=False)
        if self.study.get("aa") and level == self.study["compare"]["baseline"]:
            self.add_repeats(combination, points, skipped, block, canonical_json([level, AGAIN]), again=True)

    def add_repeats(
        self,
        combination: Mapping[str, Any],
        points: Sequence[Mapping[str, Any]],
        skipped: list[str | None],
        block: str,
        level: str,
        again: bool,
    ) -> None:
        """Every repeat of a combination; `again`: under its platform's second name."""
        for repeat in self.repeats:
            launch = self.launch(combination, repeat)
            if again:
                launch = replace(launch, platform={**launch.platform, "name": f"{launch.platform['name']}{AGAIN}"})
            members = self.blocks.setdefault((repeat, block), {})
            _, planned = members.setdefault(launch.id, (launch, {}))
            self.level[launch.id] = level
            for point, why in zip(points, skipped, strict=True):
                cell = self.cell(launch, point, why)
                planned[cell.id] = cell
                self.order[cell.id] = f"{point['prompts']} {cell.load.words()}"

    def launch(self, combination: Mapping[str, Any], repeat: int) -> Launch:
        server, model = self.study["server"], self.study["models"][combination["model"]]
        adapter = framework(combination["framework"])
        defaults = {"context_tokens": model.get("context_tokens"), **adapter.fair_defaults}
        options = {name: defaults[name] for name in defaults if name in adapter.supported}
        options |= {name: server[name] for name in server if name in OPTIONS}
        options |= {name: combination[name] for name in combination if name in OPTIONS}
        extra: Any = server.get("extra_args", [])
        if isinstance(extra, dict):  # for a build where it has its own, else for its framework
            extra = extra.get(combination["framework"], extra.get(adapter.name, []))
        return Launch(
            framework=combination["framework"],
            model=model,
            platform=self.study["platforms"][combination["platform"]],
            layout=Layout(**{name: combination[name] for name in LAYOUT if name in combination}),
            options={name: value for name, value in sorted(options.items()) if not _left_out(name, value)},
            extra_args=tuple(extra),
            environment=server.get("environment", {}),
            repeat=repeat,
        )

    def prompts(self, point: Mapping[str, Any]) -> Prompts:
        return self.study["prompts"][point["prompts"]]

    def load(self, point: Mapping[str, Any]) -> Load:
        sampling = dict(point["sampling"] or {})
        key = (*(point[name] for name in (*SIZES, "cache")), canonical_json(sampling))
        if key not in self.loads:
            # What says nothing of a load must not be in its identity.
            without = {"arrival"}
            without |= set() if point["concurrency"] is not None else {"start"}
            without |= {"bursts"} if point["burst"] is None else {"requests", "duration_s", "ramp_s"}
            without |= {"duration_s"} if point["capacity"] is not None else set()
            values: dict[str, Any] = {name: value for name, value in self.study["load"].items() if name not in without}
            if "temperature" in sampling:
                values["temperature"] = sampling.pop("temperature")
            arrival = self.study["load"]["arrival"]
            if point["rate"] is None and point["capacity"] is None:
                arrival = {"process": "closed" if point["burst"] is None else "burst"}
            self.loads[key] = Load(
                **values,
                rate_rps=point["rate"],
                concurrency=point["concurrency"],
                burst=point["burst"],
                capacity=self.search(point["capacity"]),
                arrival=arrival,
                cache=point["cache"],
                sampling=sampling or None,
            )
        return self.loads[key]

    def search(self, slo: str | None) -> Data | None:
        """The search for the capacity under `slo`: what the study says of it, and the limits of the name."""
        if slo is None:
            return None
        return {**self.study["capacity"], "slo": slo, "limits": self.study["slo"][slo]}

    def cell(self, launch: Launch, point: Mapping[str, Any], skipped: str | None) -> CellSpec:
        prompts, load = self.prompts(point), self.load(point)
        # `cache` says how a workload is used, not what it is
        key = (launch.model["name"], point["prompts"], *(point[name] for name in SIZES), launch.repeat)
        if key not in self.workloads:
            self.workloads[key] = WorkloadSpec.of(Workload.of(launch.model, prompts, load, launch.repeat))
        workload = self.workloads[key]
        cell = Cell.of(launch, prompts, load, workload.workload)
        return CellSpec.of(cell, skipped, self.thresholds, workload)


def _check_unique(ids: Iterable[str]) -> None:
    """What was added twice is one by now; two things with one id would be measured once and counted twice."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise UserError(
                f"two different parts of the plan are both called {one}: their hashes agree by chance. Another "
                "load.seed, or another name for one of the files in config/, gives other hashes"
            )
        seen.add(one)


def _combinations(matrix: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    axes = [axis for axis in LAUNCH_AXES if axis in matrix]
    for values in itertools.product(*(matrix[axis] for axis in axes)):
        yield dict(zip(axes, values, strict=True))


def _points(matrix: Mapping[str, Any], recorded_rps: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Every load of a matrix. `recorded_rps`: the rate of each recorded prompt set, by which speeds become rates."""
    sizes = [(name, size) for name in (*SIZES, SPEED) for size in matrix.get(name, [])]
    caches, samplings = matrix.get("cache", ["cold"]), matrix.get("sampling", [None])
    for prompts, (name, size), cache, sampling in itertools.product(matrix["prompts"], sizes, caches, samplings):
        asked = {name: size, "rate": at_speed(size, recorded_rps[prompts])} if name == SPEED else {name: size}
        yield {"prompts": prompts, **dict.fromkeys(SIZES), **asked, "cache": cache, "sampling": sampling}


def _fits(values: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """True where each axis of `conditions` has the value; layout sizes that a study does not name are 1."""
    return all(values.get(axis, LAYOUT.get(axis)) in allowed for axis, allowed in conditions.items())


def _shuffle(*key: Any) -> str:
    """What to sort by for a shuffle that is the same in every version of Python and stable when values are added."""
    return hashlib.sha256("|".join(map(str, key)).encode()).hexdigest()

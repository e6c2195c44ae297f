"""From a study to its launches and cells: pure, and fast enough for a hundred thousand cells.

The order is part of the design of the experiment: a *block* is one repeat of everything but the compared factor (where
that is no axis of launches: but the platform). Launches of a block stand together, so that a drift in time meets all
levels of a comparison. Their places are balanced over repeats (`order.positions`), so that being first favours nobody.
Blocks of a repeat are shuffled, and so are the cells of a launch, the same way on every level of the block. The
shuffles come from the study's seed, and adding an axis value does not change the order of the others.
"""

from __future__ import annotations

import fnmatch
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from servegauge.base.errors import UserError, did_you_mean
from servegauge.contract.records.plan import PlanDocument
from servegauge.contract.spec import AGAIN, Cell, Data, Launch, Layout, Load, Workload, canonical_json
from servegauge.frameworks import framework
from servegauge.frameworks.base import OPTIONS
from servegauge.plan import fit, stop
from servegauge.plan.order import positions

LAYOUT = {"tp": 1, "pp": 1, "dp": 1, "ep": 1, "instances": 1, "share_gpu": False}  # axis -> value without it
SIZES = ("rate", "concurrency", "burst", "capacity")  # how large a load is: a point has one of them
SPEED = "speed"  # of a recording: a rate in other words
LAUNCH_AXES = ("framework", "model", *LAYOUT, *OPTIONS, "platform")  # what a server is
CELL_AXES = ("prompts", *SIZES, SPEED, "cache", "sampling")  # what it is put under


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


def expand(study: dict[str, Any]) -> Plan:
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
    chosen = [one for one in plan.cells if fnmatch.fnmatchcase(one.cell.id, asked["cells"])]
    if not chosen:
        some = ", ".join(one.cell.id for one in plan.cells[:3])
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
        timed = plan.launch(one.cell.launch)
        if one.skipped or timed.platform["name"].endswith(AGAIN):
            continue
        launch = replace(timed, trace={**how, "cell": one.cell.id})
        launches.append(launch)
        cell = Cell.of(launch, one.cell.prompts, one.cell.load, one.cell.workload)
        search = "a search for the capacity is many loads: trace a cell at a rate" if cell.load.capacity else None
        traces.append(PlannedCell(cell, search or framework(launch.framework).untraceable(launch)))
    return replace(plan, trace_launches=launches, traces=traces)


MOST_LETTERS = 200  # of a cell's id; 255 is what file systems take, and a cell in the making has a longer name


def _left_out(name: str, value: Any) -> bool:
    """Whether an option is not given: `none` where the others are mappings is so on an axis."""
    return value is None or (name in ("speculative", "lora") and value == "none")


class _Expansion:
    """One expansion: the study, and what its many cells share."""

    def __init__(self, study: dict[str, Any]) -> None:
        self.study = study
        self.seed = study["load"]["seed"]
        self.repeats = range(1, stop.repeats(study) + 1)
        self.loads: dict[tuple[Any, ...], Load] = {}
        self.workloads: dict[tuple[Any, ...], Workload] = {}
        # (repeat, block) -> launch id -> (launch, cell id -> planned cell)
        self.blocks: dict[tuple[int, str], dict[str, tuple[Launch, dict[str, PlannedCell]]]] = {}
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

        launches: list[Launch] = []
        cells: list[PlannedCell] = []
        for (repeat, block), members in sorted(self.blocks.items(), key=lambda item: self.place_of_block(*item[0])):
            for launch_id in self.placed(members, repeat, block):
                launch, own = members[launch_id]
                launches.append(launch)
                cells.extend(own[cell_id] for cell_id in self.shuffled(own, repeat, block))
        _check_unique(launch.id for launch in launches)
        _check_unique(planned.cell.id for planned in cells)
        for planned in cells:
            if len(planned.cell.id) > MOST_LETTERS:
                raise UserError(
                    f"{self.study['path']}: the name of the cell {planned.cell.id} has {len(planned.cell.id)} letters, "
                    f"and {MOST_LETTERS} fit into a file name. Shorten the name of its model, platform or prompt "
                    "set."
                )
        return Plan(self.study, launches, cells)

    def place_of_block(self, repeat: int, block: str) -> tuple[int, str]:
        return repeat, _shuffle(self.seed, "block", repeat, block)

    def placed(self, members: Iterable[str], repeat: int, block: str) -> list[str]:
        """Launches of a block in the order in which they run: which level is which is drawn, once for all repeats."""
        drawn = sorted(members, key=lambda launch_id: _shuffle(self.seed, block, self.level[launch_id]))
        return [drawn[index] for index in positions(len(drawn), repeat)]

    def shuffled(self, planned: Mapping[str, PlannedCell], repeat: int, block: str) -> list[str]:
        return sorted(planned, key=lambda cell_id: _shuffle(self.seed, repeat, block, self.order[cell_id]))

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
                cell = self.cell(launch, point)
                planned[cell.id] = PlannedCell(cell, why)
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

    def prompts(self, point: Mapping[str, Any]) -> Data:
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
            values = {name: value for name, value in self.study["load"].items() if name not in without}
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

    def cell(self, launch: Launch, point: Mapping[str, Any]) -> Cell:
        prompts, load = self.prompts(point), self.load(point)
        # `cache` says how a workload is used, not what it is
        key = (launch.model["name"], point["prompts"], *(point[name] for name in SIZES), launch.repeat)
        if key not in self.workloads:
            self.workloads[key] = Workload.of(launch.model, prompts, load, launch.repeat)
        return Cell.of(launch, prompts, load, self.workloads[key])


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


def at_speed(speed: float, recorded_rps: float) -> float:
    """Requests a second of a recording that is replayed so many times as fast."""
    return round(speed * recorded_rps, 6)


def _fits(values: Mapping[str, Any], conditions: Mapping[str, Any]) -> bool:
    """True where each axis of `conditions` has the value; layout sizes that a study does not name are 1."""
    return all(values.get(axis, LAYOUT.get(axis)) in allowed for axis, allowed in conditions.items())


def _shuffle(*key: Any) -> str:
    """What to sort by for a shuffle that is the same in every version of Python and stable when values are added."""
    return hashlib.sha256("|".join(map(str, key)).encode()).hexdigest()


def launch_skipped(launch: Launch, study: Mapping[str, Any]) -> str | None:
    """Why `launch` cannot work, known before anything is submitted; None where nothing speaks against it."""
    platform, layout, adapter = launch.platform, launch.layout, framework(launch.framework)
    per_node, nodes = platform["gpus_per_node"], platform["nodes"]
    shape = study["shapes"][launch.model["name"]]
    here = platform.get("frameworks", {}).get(launch.framework, {})
    if "@" in launch.framework and launch.framework not in platform.get("frameworks", {}):
        return f"the platform {platform['name']} does not say how to start {launch.framework} (its `frameworks`)"
    if adapter.needs_gpu and not per_node and here.get("device") != "cpu":
        return f"{adapter.title} needs a GPU, the platform {platform['name']} has none"
    if per_node and layout.gpus > per_node * nodes:
        have = f"{per_node} on one node" if nodes == 1 else f"{per_node} on each of {nodes} nodes"
        return f"{layout.words()} takes {layout.gpus} GPUs, the platform {platform['name']} has {have}"
    if layout.gpus_per_instance % layout.ep:
        return f"ep{layout.ep} does not divide the {layout.gpus_per_instance} GPUs of a server ({layout.words()})"
    if layout.ep > 1 and shape.get("experts") == 0:
        return f"the model {launch.model['name']} has no experts to spread over ep{layout.ep}"
    heads = shape.get("heads")
    if heads and adapter.weights == "hf" and heads % layout.tp:
        return f"the model {launch.model['name']} has {heads} attention heads, which tp{layout.tp} does not divide"
    fraction = study.get("planning", {}).get("memory_fraction", fit.MEMORY_FRACTION)
    ours = adapter.weights != "none"  # the memory of a server that runs already is not ours to count
    return adapter.unsupported(launch) or (fit.too_large(launch, shape, fraction) if ours else None)


def cell_skipped(launch: Launch, prompts: Data, load: Load) -> str | None:
    """Why this load cannot work on `launch`; None where nothing speaks against it."""
    adapter = framework(launch.framework)
    if load.endpoint not in adapter.endpoints:
        return f"{adapter.title} has no endpoint {load.endpoint} (it has: {', '.join(adapter.endpoints)})"
    if "images" in prompts and load.endpoint != "chat":
        return f"the prompts of {prompts['name']} have images, which only chat messages hold: set load.endpoint to chat"
    if load.lora_mix and set(load.lora_mix) != {"base"} and launch.options.get("lora"):
        if not adapter.adapter_field:
            return f"a request to {adapter.title} cannot choose a LoRA adapter"
        if missing := sorted(set(load.lora_mix) - {"base", *launch.options["lora"]}):
            return f"this server is started without the LoRA adapter {', '.join(missing)}"
    if load.cache == "warm" and launch.options.get("prefix_cache") is False:
        return "cache: warm needs the server option prefix_cache: true"
    if load.capacity is not None and load.cache == "warm":
        return "cache: warm is for one load: a search for the capacity sends the same prompts at each rate"
    if load.capacity is not None and prompts.get("kind") in ("sessions", "conversations"):
        return "a search for the capacity sends single requests: give a set of prompts, or a rate of sessions"
    context = launch.options.get("context_tokens")
    longest = fit.longest_request(prompts, load)
    if context and longest and longest > context:
        return f"prompt and answer take up to {longest} tokens, the server's context_tokens is {context}"
    return None

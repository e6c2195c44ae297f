"""What is measured, what is missing, and what the rest will cost: everything known before a job is submitted."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from servegauge.base.errors import UserError
from servegauge.base.progress import seconds_between
from servegauge.base.text import csv_text
from servegauge.contract import sbatch_lines
from servegauge.contract.records.base import DamagedRecord, read
from servegauge.contract.records.order import ATTEMPT, RECORDS, attempt_folder
from servegauge.contract.records.outcome import Outcome
from servegauge.contract.records.plan import Plan
from servegauge.contract.records.specs import LaunchSpec
from servegauge.contract.spec import PROTOCOLS
from servegauge.frameworks import framework
from servegauge.frameworks.base import OPTIONS
from servegauge.plan import fit, stop
from servegauge.plan.axes import matrices
from servegauge.plan.estimate import Estimate, assumed, charged_gpus, estimate_cells, nodes, time_limit_min


@dataclass(frozen=True)
class LaunchState:
    """Where a launch stands. `measured` and `missing` are ids of cells in the order in which they run."""

    attempts: int  # finished attempts; the next one has this number
    measured: tuple[str, ...]
    missing: tuple[str, ...]
    skipped: int
    unneeded: tuple[str, ...] = ()  # ids of cells that `job.stop` leaves out
    untaken: bool = False  # the next attempt was submitted by a run that was killed before it took its outcome


State = Mapping[str, LaunchState]


def state(plan: Plan, results: Path) -> dict[str, LaunchState]:
    """Where each launch of `plan` stands, from the names in `results`/cells and `results`/launches alone."""
    # Snakemake makes an empty folder for a cell that it is asked for by its file; only its record says measured.
    wanted = {cell.id for cell in plan.every_cell}
    measured = {
        name
        for kind, record in RECORDS.items()
        for name in _entries(results / kind) & wanted
        if os.path.isfile(f"{results}/{kind}/{name}/{record}")
    }
    started = _entries(results / "launches")
    enough = stop.not_needed(plan.study, results)
    found = {}
    for launch in plan.every_launch:
        attempts = _attempts(results / "launches" / launch.id) if launch.id in started else 0
        have: list[str] = []
        missing: list[str] = []
        unneeded: list[str] = []
        skipped = 0
        for cell in plan.cells_of(launch.id):
            if cell.id in measured:
                have.append(cell.id)
            elif cell.skipped:
                skipped += 1
            elif enough and launch.repeat > enough[0] and not launch.trace:
                unneeded.append(cell.id)
            else:
                missing.append(cell.id)
        untaken = os.path.exists(attempt_folder(results, launch.id, attempts) / "job.json")
        found[launch.id] = LaunchState(attempts, tuple(have), tuple(missing), skipped, tuple(unneeded), untaken)
    return found


def _entries(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except FileNotFoundError:
        return set()


def _attempts(folder: Path) -> int:
    """Number of finished attempts: one more than the highest k of `attempt-<k>.json`."""
    finished = filter(None, map(ATTEMPT.fullmatch, _entries(folder)))
    return max((int(one[1]) + 1 for one in finished), default=0)


def estimate(plan: Plan, state: State, results: Path) -> dict[str, Estimate]:
    """Launch id to what its missing cells will take."""
    given = assumed(plan.study)
    return {launch.id: _estimate(plan, state[launch.id], launch, results, given) for launch in plan.every_launch}


def _estimate(plan: Plan, now: LaunchState, launch: LaunchSpec, results: Path, given: Mapping[str, float]) -> Estimate:
    missing = set(now.missing)
    cells = [cell for cell in plan.cells_of(launch.id) if cell.id in missing]
    return estimate_cells(launch, cells, results, given)


# -- for people ---------------------------------------------------------------


def message(plan: Plan, state: State, launch_id: str, results: Path) -> str:
    """One line of a dry-run: what is served, its cells, how many are measured, what it asks for, its minutes."""
    launch, now = plan.launch(launch_id), state[launch_id]
    cost = _estimate(plan, now, launch, results, assumed(plan.study))
    total = len(now.measured) + len(now.missing)
    parts = [f"{_count(total, 'trace' if launch.trace else 'cell')}, {len(now.measured)} measured"]
    if now.skipped:
        parts.append(f"{now.skipped} cannot work")
    parts.append(asks(plan, launch, cost.minutes))
    parts.append(f"about {time_of(cost.minutes)}")
    return f"{serves(plan, launch)}: " + "; ".join(part for part in parts if part)


def serves(plan: Plan, launch: LaunchSpec) -> str:
    """`vLLM serves qwen3-8b tp2 on h100-vgpu (prefix_cache false), repeat 1`: options only where they are axes."""
    varied = [
        f"{name} {_word(launch.options[name])}"
        for name in OPTIONS
        if name in launch.options and any(name in axes for axes in matrices(plan.study))
    ]
    options = f" ({', '.join(varied)})" if varied else ""
    build = launch.framework.partition("@")[2]
    engine = framework(launch.framework).title + (f" ({build})" if build else "")
    what = f"{engine} serves {launch.model['name']} {launch.layout.words()}"
    traced = f", traced with {launch.trace['profiler']}" if launch.trace else ""
    return f"{what} on {launch.platform['name']}{options}{traced}, repeat {launch.repeat}"


def asks(plan: Plan, launch: LaunchSpec, minutes: float) -> str:
    """What the job asks of Slurm; empty for a platform that says nothing of Slurm."""
    if "slurm" not in launch.platform:
        return ""
    slurm, count = launch.platform["slurm"], nodes(launch)
    parts = [_count(count, "node") + (" exclusively" if sbatch_lines.whole_node(slurm) else "")]
    if launch.layout.gpus and launch.platform.get("gpus_per_node"):
        parts.append(_count(launch.layout.gpus, "GPU"))
    parts.extend(f"{key} {slurm[key]}" for key in ("partition", "account", "qos", "constraint") if key in slurm)
    return "asks for " + ", ".join([*parts, f"{time_limit_min(plan.study, launch, minutes)} min"])


def total(plan: Plan, state: State, results: Path, over_budget: bool = False) -> str:
    """Launches, cells, minutes and GPU hours against the budget; UserError when beyond it, unless `over_budget`."""
    return _total(plan, state, estimate(plan, state, results), results, over_budget)


def _total(plan: Plan, state: State, costs: Mapping[str, Estimate], results: Path, over_budget: bool) -> str:
    sums = totals(plan, state, costs, results)
    check_budget(plan, sums, over_budget)
    cells = f"{_count(sums['cells'], 'cell')} ({sums['measured']} measured, {sums['missing']} to measure"
    cells += f", {sums['unneeded']} not needed" if sums["unneeded"] else ""
    cells += f", {sums['skipped']} cannot work)" if sums["skipped"] else ")"
    to_run = f"{sums['launches_to_run']} of {_count(sums['launches'], 'launch', 'launches')} to run"
    if sums["traces"]:
        cells += f", {_count(sums['traces'], 'trace')} in launches of their own ({sums['traces_measured']} measured, "
        cells += f"{sums['traces_missing']} to measure"
        cells += f", {sums['traces_skipped']} cannot work)" if sums["traces_skipped"] else ")"
    text = f"study {plan.study['name']}: {to_run}, {cells}, about {time_of(sums['minutes'])} one after the other"
    if sums["gpu_hours"] or sums["gpu_hours_spent"] or sums["budget_gpu_hours"] is not None:
        text += f"; {sums['gpu_hours']:.1f} GPU hours to come, {sums['gpu_hours_spent']:.1f} spent"
        if sums["budget_gpu_hours"] is not None:
            text += f", budget {sums['budget_gpu_hours']:g}"
    if (asked := stop.asked(plan.study)) and stop.stopped_after(plan.study, results) is None:
        least, half = plan.study["matrix"]["repeat"], 100 * asked["half_width"]
        text += f"; beyond {least} repeats only while an interval is wider than ±{half:g} % (job.stop)"
    return text


def totals(plan: Plan, state: State, costs: Mapping[str, Estimate], results: Path) -> dict[str, Any]:
    """Sums over all launches; `gpu_hours` of what is to come, `gpu_hours_spent` by finished attempts.

    Launches, minutes and GPU hours are those of cells and traces together.
    """
    timed = [state[launch.id] for launch in plan.launches]
    traced = [state[launch.id] for launch in plan.trace_launches]
    return {
        "launches": len(plan.every_launch),
        "launches_to_run": sum(bool(now.missing) for now in [*timed, *traced]),
        "cells": len(plan.cells),
        "measured": sum(len(now.measured) for now in timed),
        "missing": sum(len(now.missing) for now in timed),
        "skipped": sum(now.skipped for now in timed),
        "unneeded": sum(len(now.unneeded) for now in timed),
        "traces": len(plan.traces),
        "traces_measured": sum(len(now.measured) for now in traced),
        "traces_missing": sum(len(now.missing) for now in traced),
        "traces_skipped": sum(now.skipped for now in traced),
        "minutes": sum(cost.minutes for cost in costs.values()),
        "gpu_hours": sum(cost.gpu_hours for cost in costs.values()),
        "gpu_hours_spent": sum(_spent(launch, state[launch.id], results) for launch in plan.every_launch),
        "budget_gpu_hours": plan.study.get("budget", {}).get("gpu_hours"),
    }


def _spent(launch: LaunchSpec, now: LaunchState, results: Path) -> float:
    """GPU hours of a launch's finished attempts; an attempt that does not say its times counts nothing."""
    gpus = charged_gpus(launch)
    seconds = 0.0
    for number in range(now.attempts if gpus else 0):
        try:
            outcome = read(results / "launches" / launch.id / f"attempt-{number}.json", Outcome)
        except (FileNotFoundError, DamagedRecord):
            continue
        seconds += seconds_between(outcome.started_utc, outcome.finished_utc) or 0.0
    return gpus * seconds / 3600


def check_budget(plan: Plan, sums: Mapping[str, Any], over_budget: bool) -> None:
    """UserError where the hours spent and to come are beyond the study's budget, unless `over_budget`."""
    budget, needed = sums["budget_gpu_hours"], sums["gpu_hours"] + sums["gpu_hours_spent"]
    to_come = sums["missing"] or sums["traces_missing"]
    if budget is None or over_budget or not to_come or needed <= budget:
        return
    raise UserError(
        f"{plan.study['path']}: budget.gpu_hours: the plan takes {sums['gpu_hours']:.1f} GPU hours and "
        f"{sums['gpu_hours_spent']:.1f} are spent, the budget is {budget:g}. Make the study smaller, raise the "
        "budget, or go on with --config over_budget=true (servegauge plan: --over-budget)"
    )


# -- the plan as text ----------------------------------------------------------


def render(plan: Plan, results: Path, kind: str = "table") -> str:
    """The plan as `table` (a line a launch), `csv` (a line a cell) or `json` (everything)."""
    now = state(plan, results)
    costs = estimate(plan, now, results)
    before = measured_before(plan, now, results)
    if kind == "csv":
        rows = list(cell_rows(plan, now, before))
        return csv_text(rows[0] if rows else (), rows)
    sums = totals(plan, now, costs, results)
    if kind == "json":
        launches = [
            {
                "launch": launch.id,
                "message": message(plan, now, launch.id, results),
                **asdict(now[launch.id]),
                "minutes": costs[launch.id].minutes,
                "gpu_hours": costs[launch.id].gpu_hours,
            }
            for launch in plan.every_launch
        ]
        cells = list(cell_rows(plan, now, before))
        return json.dumps({"study": plan.study["name"], "launches": launches, "cells": cells, "totals": sums}, indent=1)
    lines = [plan.study["question"], ""]
    lines += [f"{launch.id}\n    {message(plan, now, launch.id, results)}" for launch in plan.every_launch]
    reasons = Counter(cell.skipped for cell in plan.every_cell if cell.skipped)
    if reasons:
        lines += ["", "Cannot work:", *(f"    {_count(count, 'cell')}: {why}" for why, count in reasons.most_common())]
    if short := shortages(plan):
        lines += ["", "Fits, but not all at once:", *(f"    {note}" for note in short)]
    if before:
        why = Counter(before.values())
        lines += ["", "To be measured again, and what was measured stays:"]
        lines += [f"    {_count(count, 'cell')}: {reason}" for reason, count in why.most_common()]
    notes = differences(plan)
    if notes:
        lines += ["", "Not quite the same everywhere:", *(f"    {note}" for note in notes)]
    return "\n".join([*lines, "", _total(plan, now, costs, results, over_budget=True), ""])


def measured_before(plan: Plan, state: State, results: Path) -> dict[str, str]:
    """Why missing cells that an earlier measuring protocol has measured are measured again, by their ids."""
    there = _entries(results / "cells")
    missing = {cell for now in state.values() for cell in now.missing} if there else set()
    return {
        cell.id: f"measured before by protocol {earlier.protocol} ({PROTOCOLS[earlier.protocol]}); "
        f"protocol {cell.protocol}: {PROTOCOLS[cell.protocol]}"
        for cell in plan.cells
        if cell.id in missing
        for earlier in cell.cell.earlier
        if earlier.id in there
    }


def cell_rows(plan: Plan, state: State, before: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    """One flat row per cell: its factors, and whether it is measured, missing or skipped, with the reason.

    `before`: see `measured_before`.
    """
    for launch in plan.launches:
        measured = set(state[launch.id].measured)
        layout = asdict(launch.layout)
        for cell in plan.cells_of(launch.id):
            unneeded = "job.stop: the intervals are narrow" if cell.id in state[launch.id].unneeded else None
            skipped = cell.skipped or unneeded
            status = "measured" if cell.id in measured else "skipped" if skipped else "missing"
            yield {
                "cell": cell.id,
                "launch": launch.id,
                "framework": launch.framework,
                "model": launch.model["name"],
                **layout,
                "platform": launch.platform["name"],
                "options": json.dumps(launch.options, sort_keys=True),
                "repeat": launch.repeat,
                "prompts": cell.prompts["name"],
                "rate_rps": cell.load.rate_rps,
                "concurrency": cell.load.concurrency,
                "burst": cell.load.burst,
                "capacity": cell.load.capacity["slo"] if cell.load.capacity else None,
                "cache": cell.load.cache,
                "workload": cell.workload.id,
                "protocol": cell.protocol,
                "status": status,
                "reason": skipped or before.get(cell.id),
            }


def shortages(plan: Plan) -> list[str]:
    """Cells that will hold more requests than the KV cache has room for, each configuration and load once."""
    fraction = plan.study.get("planning", {}).get("memory_fraction", fit.MEMORY_FRACTION)
    found: dict[tuple[str, str, str], str | None] = {}
    for cell in plan.cells:
        launch = plan.launch(cell.launch)
        key = (launch.configuration, cell.prompts["name"], cell.load.words())
        if cell.skipped or key in found or framework(launch.framework).weights == "none":
            continue
        shape = plan.study["shapes"].get(launch.model["name"], {})
        found[key] = fit.shortage(launch.launch, shape, cell.prompts, cell.load, fraction)
    return [note for note in found.values() if note]


def differences(plan: Plan) -> list[str]:
    """Options in use that do not mean the same in all frameworks of the study, as their files say."""
    if len({launch.framework for launch in plan.launches}) < 2:
        return []
    used = {(launch.framework, name) for launch in plan.launches for name in launch.options}
    return [
        f"{framework(name).title}, {option}: {framework(name).differences[option]}"
        for name, option in sorted(used)
        if option in framework(name).differences
    ]


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def time_of(minutes: float) -> str:
    """`28 s`, `89 min`, `2.6 h`."""
    return (
        f"{minutes * 60:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    )


def _word(value: Any) -> str:
    return (
        str(value).lower() if isinstance(value, bool) else json.dumps(value) if isinstance(value, dict) else str(value)
    )

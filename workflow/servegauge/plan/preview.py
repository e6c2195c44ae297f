"""A study in one screen: what a dry-run shows, for 200 launches too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from servegauge.base.text import aligned
from servegauge.contract.records.plan import Plan
from servegauge.plan import documents
from servegauge.plan.documents import State
from servegauge.plan.estimate import Estimate

MOST_ROWS = 30


@dataclass
class _Row:
    """Launches that differ in nothing but their repeat."""

    launches: int = 0
    measured: int = 0
    missing: int = 0
    skipped: int = 0
    minutes: float = 0.0
    gpu_hours: float = 0.0


def preview(plan: Plan, state: State, results: Path, absent: Sequence[str] = (), probes: Sequence[str] = ()) -> str:
    """The matrix as a table, what cannot work, what differs, what is `absent` before it can run, and the cost.

    `probes`: a line for each platform whose probes are still to run.
    """
    costs = documents.estimate(plan, state, results)
    lines = [f"study {plan.study['name']}: {' '.join(str(plan.study['question']).split())}", ""]
    lines += _table(plan, state, costs)
    if reasons := Counter(cell.skipped for cell in plan.every_cell if cell.skipped):
        lines += ["", "Cannot work:", *(f"  {_cells(count)}: {why}" for why, count in reasons.most_common(8))]
        if len(reasons) > 8:
            lines.append(f"  ... and {len(reasons) - 8} more reasons; `servegauge plan` shows all")
    if notes := documents.differences(plan):
        lines += ["", "Not quite the same everywhere:", *(f"  {note}" for note in notes)]
    if probes:
        lines += ["", "Probes:", *(f"  {text}" for text in probes)]
    if absent:
        lines += ["", "Missing on this machine before it can run:", *(f"  - {text}" for text in absent)]
    lines += ["", documents.total(plan, state, results, over_budget=True)]
    return "\n".join(lines)


def _table(plan: Plan, state: State, costs: dict[str, Estimate]) -> Iterator[str]:
    rows: dict[str, _Row] = {}
    for launch in plan.every_launch:
        # One line for all repeats: what is served, without its number.
        row = rows.setdefault(documents.serves(plan, launch).rpartition(", repeat")[0], _Row())
        now = state[launch.id]
        row.launches += 1
        row.measured += len(now.measured)
        row.missing += len(now.missing)
        row.skipped += now.skipped
        row.minutes += costs[launch.id].minutes
        row.gpu_hours += costs[launch.id].gpu_hours
    gpus = any(row.gpu_hours for row in rows.values())
    heading = ["what is served", "launches", "measured", "to measure", "cannot work", "minutes"]
    cells = [
        [name, *map(str, (row.launches, row.measured, row.missing, row.skipped)), f"{row.minutes:.0f}"]
        + ([f"{row.gpu_hours:.1f}"] if gpus else [])
        for name, row in list(rows.items())[:MOST_ROWS]
    ]
    yield from aligned([heading + (["GPU hours"] if gpus else []), *cells])
    if len(rows) > MOST_ROWS:
        yield f"... and {len(rows) - MOST_ROWS} more; `servegauge plan {plan.study['name']}` shows all"


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"

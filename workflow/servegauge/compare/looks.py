"""A look at a study between two repeats: how wide the intervals of its primary metrics are, and nothing of verdicts.

`python -m servegauge.compare.looks --plan PLAN --launch LAUNCH` looks before the launch is measured, once for all
launches of its repeat, and prints why the launch is not needed, or nothing. A process of its own, because the one that
waits for a job must stay small.
"""

from __future__ import annotations

import argparse
import fcntl
from pathlib import Path

from msgspec.structs import replace

from servegauge.base.errors import UserError, run_and_exit
from servegauge.base.progress import utc_now
from servegauge.compare.compare import compare
from servegauge.compare.results import Comparison
from servegauge.contract.records.base import plain, read, write
from servegauge.contract.records.looks import Look, Looks, Width
from servegauge.contract.records.order import is_measured
from servegauge.contract.records.plan import Plan
from servegauge.dataset import merge
from servegauge.dataset.study_view import Study, level_text
from servegauge.plan import stop


def look(results: Path, study: str, after: int) -> Look:
    """The primary intervals of a study by its first `after` repeats, from what is measured now."""
    merge.merge(results)
    view = Study(results, study)
    view.cells = [row for row in view.cells if row["repeat"] <= after]
    try:
        found = compare(view)
    except UserError:  # what cannot be compared is not narrow; the report will say why
        found = None
    return Look(after=after, utc=utc_now(), widths=widths_of(found) if found else ())


def widths_of(found: Comparison) -> tuple[Width, ...]:
    """The primary intervals of a comparison."""
    widths: list[Width] = []
    for level in found.levels[1:]:
        overall = {one.metric.name: one for one in found.overall if one.level == level}
        for name in found.primary:
            one = overall.get(name)
            ends = {end: getattr(one, end) for end in ("ratio", "low", "high")} if one else {}
            widths.append(Width(metric=name, level=level_text(level), **ends))
    return tuple(widths)


def reason_to_stop(plan_file: Path, launch: str, results: Path) -> str | None:
    """Why `launch` is not needed; None where it is. Looks where the repeats before have not been looked at."""
    plan = read(plan_file, Plan)
    study = plain(plan.study)
    repeat = next((one.repeat for one in plan.launches if one.id == launch), 1)
    if not stop.earlier_repeats(study, repeat):
        return None
    file = stop.looks_file(results, plan.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with (file.parent / f".{plan.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # launches of one repeat share a look
        early = {one.id for one in plan.launches if one.repeat < repeat}
        cells = sum(is_measured(results, one.id) for one in plan.cells if one.launch in early)
        known = [one for one in stop.valid_looks(study, results) if (one.after, one.cells) == (repeat - 1, cells)]
        if not known:  # not looked yet, or at other cells: some had failed, or the study asked for others
            seen = replace(look(results, plan.name, repeat - 1), question=stop.question(study), cells=cells)
            earlier = stop.looks(results, plan.name).looks
            write(file, Looks(study=plan.name, looks=tuple(sorted((*earlier, seen), key=lambda one: one.after))))
    found = stop.not_needed(study, results)
    return found[1] if found and repeat > found[0] else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--launch", required=True)
    parser.add_argument("--results", type=Path, default=Path("results"))
    given = parser.parse_args()
    print(reason_to_stop(given.plan, given.launch, given.results) or "")
    return 0


if __name__ == "__main__":
    run_and_exit(main)

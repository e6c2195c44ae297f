"""What scripts/measure_launch.py and scripts/measure_cell.py do: attempts of a launch, whose jobs run `RUN`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from servegauge.base import environment
from servegauge.base.errors import ask_child
from servegauge.contract.records.order import is_measured
from servegauge.submit import attempts, waiter
from servegauge.submit.monitor import POLL_S
from servegauge.submit.orders import find_launch

RUN = "servegauge.launch.run:run_launch"


def measure_launch(
    plan: Path, launch: str, attempt: int, submit: str, out: Path, cells: str = "*", poll_s: float = POLL_S,
    log: Path | None = None, look: bool = False, probes: bool = False,
) -> int:  # fmt: skip
    """Measure the missing cells of `launch`; the exit status. See `attempts.Run.measure_launch`.

    With `look`, only where the intervals of the repeats before it are not narrow enough: see `compare.looks`.
    """
    run = _run(plan, launch, submit, out, cells, poll_s, log, probes)
    if look and not (run.sleeper and run.sleeper.woken) and (reason := _looked(plan, launch, run.results)):
        run.leave_out(attempt, plan.stem, reason)
        return 0
    return run.measure_launch(attempt, out)


def measure_cell(plan: Path, cell: str, submit: str, out: Path, poll_s: float = POLL_S, log: Path | None = None) -> int:
    """Measure one cell in a launch of its own; the exit status. See `attempts.Run.measure_cell`."""
    with contextlib.suppress(OSError):
        os.rmdir(out.parent)  # Snakemake makes the folder of an output; here the folder itself says "measured"
    if is_measured(attempts.results_of(out), cell):
        return 0
    return _run(plan, find_launch(plan, cell), submit, out, cell, poll_s, log).measure_cell()


def _run(
    plan: Path, launch: str, submit: str, out: Path, cells: str, poll_s: float, log: Path | None, probes: bool = False
) -> attempts.Run:
    environment.restore(os.environ)
    results, sleeper = attempts.results_of(out), waiter.Sleeper(waiter.woken())
    return attempts.Run(plan, launch, submit, results, RUN, cells or "*", poll_s, log, sleeper, probes)


def _looked(plan: Path, launch: str, results: Path) -> str:
    """Why the launch is not needed, or nothing; in a process of its own, because this one waits and must stay small."""
    asked = ("--plan", str(plan), "--launch", launch, "--results", str(results))
    return ask_child("servegauge.compare.looks", *asked, failed=f"looking before {launch} failed").strip()

"""What scripts/measure_launch.py and scripts/measure_cell.py do: attempts of a launch, whose jobs run `RUN`."""

from __future__ import annotations

import os
from pathlib import Path

from servegauge.base import environment
from servegauge.base.errors import ask_child
from servegauge.submit import attempts, waiter
from servegauge.submit.monitor import POLL_S

RUN = "servegauge.launch.run:run_launch"


def measure_launch(
    plan: Path, launch: str, attempt: int, submit: str, out: Path, cells: str = "*", poll_s: float = POLL_S,
    log: Path | None = None, look: bool = False, probes: bool = False,
) -> int:  # fmt: skip
    """Measure the missing cells of `launch`; the exit status. See `attempts.measure_launch`.

    With `look`, only where the intervals of the repeats before it are not narrow enough: see `compare.looks`.
    """
    environment.restore(os.environ)
    sleeper = waiter.Sleeper(waiter.woken())
    if look and not sleeper.woken and (reason := _looked(plan, launch, attempts.results_of(out))):
        return attempts.leave_out(plan, launch, attempt, out, reason, log)
    return attempts.measure_launch(plan, launch, attempt, submit, out, RUN, cells, poll_s, log, sleeper, probes)


def _looked(plan: Path, launch: str, results: Path) -> str:
    """Why the launch is not needed, or nothing; in a process of its own, because this one waits and must stay small."""
    asked = ("--plan", str(plan), "--launch", launch, "--results", str(results))
    return ask_child("servegauge.compare.looks", *asked, failed=f"looking before {launch} failed").strip()


def measure_cell(plan: Path, cell: str, submit: str, out: Path, poll_s: float = POLL_S, log: Path | None = None) -> int:
    """Measure one cell; the exit status. See `attempts.measure_cell`."""
    environment.restore(os.environ)
    return attempts.measure_cell(plan, cell, submit, out, RUN, poll_s, log, waiter.Sleeper(waiter.woken()))

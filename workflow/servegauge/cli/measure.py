"""What scripts/measure_launch.py and scripts/measure_cell.py do: attempts of a launch, whose jobs run `RUN`."""

from __future__ import annotations

import os
from pathlib import Path

from servegauge.base import environment
from servegauge.submit import attempts
from servegauge.submit.monitor import POLL_S

RUN = "servegauge.launch.run:run_launch"


def measure_launch(
    plan: Path, launch: str, attempt: int, submit: str, out: Path, cells: str = "*", poll_s: float = POLL_S,
    log: Path | None = None,
) -> int:  # fmt: skip
    """Measure the missing cells of `launch`; the exit status. See `attempts.measure_launch`."""
    environment.restore(os.environ)
    return attempts.measure_launch(plan, launch, attempt, submit, out, RUN, cells, poll_s, log)


def measure_cell(plan: Path, cell: str, submit: str, out: Path, poll_s: float = POLL_S, log: Path | None = None) -> int:
    """Measure one cell; the exit status. See `attempts.measure_cell`."""
    environment.restore(os.environ)
    return attempts.measure_cell(plan, cell, submit, out, RUN, poll_s, log)

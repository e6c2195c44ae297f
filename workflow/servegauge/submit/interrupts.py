"""A run of Snakemake that is asked to end cancels its launches' jobs; a run after a killed one is told what to do.

Snakemake ends its children on Ctrl-C, which the terminal sends to all of them. On SIGTERM it waits for them instead,
for hours where they wait for jobs. Here SIGTERM is passed on to those that wait; they cancel their jobs and say so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from servegauge.base.supervisor import descendants

LOCKS = Path(".snakemake/locks")
WAITING = (b"scripts/measure_launch.py", b"scripts/measure_cell.py", b"scripts/probe.py")


def cancel_on_term() -> None:
    """From now on, SIGTERM ends this process as Ctrl-C would. To be called when Snakemake has set its handlers."""
    signal.signal(signal.SIGTERM, _end)


def _end(_number: int, _frame: object) -> None:
    waiting = waiting_processes()
    print(f"SIGTERM: cancelling {len(waiting)} jobs; what is measured stays", file=sys.stderr, flush=True)
    for process in waiting:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    # Snakemake starts nothing more, waits until those have ended, and leaves.
    os.kill(os.getpid(), signal.SIGINT)


def waiting_processes() -> list[int]:
    """Children of this process that wait for the job of a launch or of probes."""
    found = []
    for process in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            argv = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            if any(word.endswith(WAITING) for word in argv[:4]):
                found.append(process)
    return found


def after_a_kill(locks: Path = LOCKS) -> str:
    """What to do when Snakemake will find its lock taken; empty where there is none."""
    if not any(locks.glob("*.lock")):
        return ""
    return (
        "note: .snakemake/locks holds the lock of another run of Snakemake in this folder. If that run is alive, let\n"
        "it end. If it was killed, or its login node was lost: give the same command with --unlock, once, and then\n"
        "the same command as before. Jobs that are still pending or running are found again, what they measured is\n"
        "taken, nothing is submitted twice.\n"
    )

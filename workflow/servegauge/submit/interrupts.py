"""A run of Snakemake that is asked to end cancels its launches' jobs; a run after a killed one reports what to do.

Snakemake ends its children on Ctrl-C, which the terminal sends to all of them. On SIGTERM it waits for them instead,
for hours where they wait for jobs. Here SIGTERM is passed on to those that wait; they cancel their jobs and say so. A
second Ctrl-C, or SIGTERM, makes them leave without their jobs' end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import TracebackType

from servegauge.base.supervisor import descendants

LOCKS = Path(".snakemake/locks")
WAITING = (b"scripts/measure_launch.py", b"scripts/measure_cell.py", b"scripts/probe.py")


def cancel_on_signals(study: str) -> None:
    """From now on, SIGTERM ends this process as Ctrl-C would, and asked twice it waits for no job any more.

    Asked once more, while the dataset is made of what there is, it leaves that, too, and says so.
    To be called when Snakemake has set its handlers. A SIGINT that the caller ignores stays ignored.
    """
    sys.excepthook = partial(_leave, study)
    signal.signal(signal.SIGTERM, _end)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)


def _end(_number: int, _frame: object) -> None:
    waiting = waiting_processes()
    if waiting:
        print(f"SIGTERM: cancelling {len(waiting)} jobs; what is measured stays", file=sys.stderr, flush=True)
    _tell(waiting, signal.SIGTERM)
    # Snakemake starts nothing more, waits until those have ended, and leaves.
    os.kill(os.getpid(), signal.SIGINT)


_asked = False


def _interrupt(number: int, frame: object) -> None:
    """The first one is Snakemake's, which waits for its children; a second one makes these leave their jobs.

    The terminal has told them SIGINT each time, but where it is pending already nobody sees the second one: so they are
    sent SIGTERM beside it. Snakemake goes on waiting, now for seconds, and ends in order.
    """
    global _asked
    again, _asked = _asked, True
    if not again or not (waiting := waiting_processes()):
        raise KeyboardInterrupt
    print(f"asked twice to end: leaving {len(waiting)} jobs, which are cancelled", file=sys.stderr, flush=True)
    _tell(waiting, signal.SIGINT, signal.SIGTERM)


def _leave(study: str, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """The last word where an exception ends Snakemake, by which time its lock is released: an interrupt is no error."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # nothing is left that could be ended in order
    print(
        "asked again to end: what is measured stays, its dataset and report were left undone. `servegauge report "
        f"{study}` makes them; the same command as before measures what is missing.",
        file=sys.stderr,
        flush=True,
    )


def _tell(processes: list[int], *numbers: int) -> None:
    for process in processes:
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)


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

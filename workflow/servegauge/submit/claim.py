"""One job measures an attempt, although a submission that seemed to fail may have left two.

A job writes its number into `claim-<n>` in the attempt's folder before it measures. Each file is created once and never
changed, so of two jobs that want to follow a dead one only one gets the next number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from servegauge.base.files import fsync


def claim(folder: Path, job: str, alive: Callable[[str], bool]) -> str | None:
    """Make `job` the one that measures in `folder`; the number of another living job that does already, else None.

    `alive` says whether a job is in the queue; a job that is requeued keeps its claim.
    """
    number = 0
    while True:
        file = folder / f"claim-{number}"
        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            holder = _holder(file)
            if (folder / f"claim-{number + 1}").exists():
                number += 1  # another one followed it
            elif holder == job:
                return None
            elif holder is None or alive(holder):
                return holder or "unknown"
            else:
                number += 1
            continue
        with os.fdopen(handle, "w", encoding="ascii") as opened:
            opened.write(f"{job}\n")
            opened.flush()
            os.fsync(opened.fileno())
        fsync(folder)
        return None


def _holder(file: Path, tries: int = 50) -> str | None:
    """The job that a claim names; None where it stays empty, because its writer was killed or is not seen yet."""
    for _ in range(tries):
        if text := file.read_text(encoding="ascii", errors="replace").strip():
            return text
        time.sleep(0.1)
    return None

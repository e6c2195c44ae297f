"""Jobs that are processes of this machine: found, identified and ended by their command lines."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from servegauge.contract.records.order import Order
from servegauge.submit.backend import Backend
from servegauge.submit.slurm_commands import JobState, Queue


class ProcessBackend(Backend):
    """What `local` and `inline` share: a job is the processes that have its folder or order in their command line."""

    def __init__(self, folder: Path, order: Order, queue: Queue, exclude: Sequence[str] = ()) -> None:
        super().__init__(folder, order, queue, exclude)
        self._family: dict[int, str] = {}  # process id -> when it started, so that a reused id is not taken for ours
        self._started: list[subprocess.Popen[bytes]] = []

    def begin(self, process: subprocess.Popen[bytes]) -> None:
        """Know the process that was just started by its number: its command line is empty until its exec is through."""
        self._started.append(process)
        self._family = {process.pid: _start_of(process.pid)}

    def living(self) -> str | None:
        return str(min(family)) if (family := self._processes()) else None

    def state(self, job: str, since_s: float) -> JobState | None:
        for process in self._started:
            process.poll()
        alive = {pid: start for pid, start in self._family.items() if _start_of(pid) == start}
        # Looked for anew only when the last known one is gone: a controller that was killed leaves its task behind.
        self._family = alive or self._processes()
        nodes = socket.gethostname()
        return JobState(job, "RUNNING" if self._family else "ENDED", "", nodes)

    def cancel(self, job: str) -> str:
        for pid in sorted(self._processes()):
            try:
                os.kill(pid, 15)
            except ProcessLookupError:
                continue
            except OSError as error:
                return f"process {pid}: {error.strerror}"
        return ""

    def _processes(self) -> dict[int, str]:
        """Living processes of this job, by their command lines: the folder stands in each."""
        found, word = {}, str(self.folder).encode()
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    argv = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if word in argv and (start := _start_of(int(entry.name))):
                    found[int(entry.name)] = start
        return found


def _start_of(pid: int) -> str:
    """When process `pid` started, in clock ticks since boot; empty where it has ended or waits to be collected."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]

"""CPU time of a process and of everything that it started, from /proc: what of a node's load is ours."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path


def cpu_ticks(root: int, proc: Path = Path("/proc")) -> int | None:
    """Ticks (user and system) of process `root` and all its descendants, ended ones included; None: it is not there.

    A process that ended is in the count of its parent once that has waited for it (`cutime` of proc(5)).
    """
    children: dict[int, list[int]] = defaultdict(list)
    ticks: dict[int, int] = {}
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The second field is the program's name in brackets, which may hold anything.
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            pid, parent = int(path.parent.name), int(fields[1])
            ticks[pid] = sum(map(int, fields[11:15]))
        except (OSError, ValueError, IndexError):  # it ended meanwhile
            continue
        children[parent].append(pid)
    if root not in ticks:
        return None
    total, left = 0, [root]
    while left:
        pid = left.pop()
        total += ticks[pid]
        left += children[pid]
    return total

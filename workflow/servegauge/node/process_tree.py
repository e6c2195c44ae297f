"""CPU time of a process and of everything that it started, from /proc: what of a node's load is ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path


def cpu_ticks(root: int, proc: Path = Path("/proc")) -> int | None:
    """Ticks (user and system) of process `root` and all its descendants, ended ones included; None: it is not there.

    A process that ended is in the count of its parent once that has waited for it (`cutime` of proc(5)).
    """
    ticks, children = _processes(proc)
    if root not in ticks:
        return None
    return sum(ticks[pid] for pid in _descent(root, children))


def family(root: int, proc: Path = Path("/proc")) -> set[int]:
    """Process `root` and all its descendants that are there now; empty where it is not."""
    ticks, children = _processes(proc)
    return set(_descent(root, children)) if root in ticks else set()


def _processes(proc: Path) -> tuple[dict[int, int], dict[int, list[int]]]:
    """(process -> its ticks, process -> its children)."""
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
    return ticks, children


def _descent(root: int, children: dict[int, list[int]]) -> Iterator[int]:
    left = [root]
    while left:
        pid = left.pop()
        yield pid
        left += children[pid]

"""CPU time of a process and of everything that it started, from /proc: what of a node's load is ours."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from servegauge.node.node_facts import cpu_times
from servegauge.node.reader import Node, Unreadable


def cpu_ticks(root: int, proc: Path = Path("/proc")) -> int | None:
    """Ticks (user and system) of process `root` and all its descendants, ended ones included; None: it is not there.

    A process that ended is in the count of its parent once that has waited for it (`cutime` of proc(5)).
    """
    ticks, children = _processes(proc)
    if root not in ticks:
        return None
    return sum(ticks[pid] for pid in _descent(root, children))


class Others:
    """What processes take of a node's CPU time, from now on, that are neither `owner` nor anything that it started."""

    def __init__(self, owner: int, node: Node | None = None) -> None:
        self._owner, self._node = owner, node or Node()
        self._began = self._ticks()

    def _ticks(self) -> tuple[int, int, int] | None:
        """(all, busy, the owner's); None where they cannot be read."""
        ours = cpu_ticks(self._owner)
        try:
            every = cpu_times(self._node.read("/proc/stat"))["cpu"]
        except (Unreadable, ValueError):
            return None
        busy = every["user"] + every["nice"] + every["system"]
        return None if ours is None else (sum(every.values()), busy, ours)

    def share(self) -> float | None:
        """Share of the time so far, 0 to 1; None where it is unknown."""
        now = self._ticks()
        if self._began is None or now is None:
            return None
        total, busy, ours = (after - before for before, after in zip(self._began, now, strict=True))
        return max(0.0, (busy - ours) / total) if total > 0 else None


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

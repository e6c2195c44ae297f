"""Which of a launch's servers measured a cell: a launch that went on in another attempt had more than one.

A launch is meant to be one server lifetime. Where a job was cut off or a server died, its other cells were measured by
a server that was started anew, minutes or days later; known only when all of them are there, so the merge says it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from servegauge.base.progress import duration, seconds_between, seconds_of
from servegauge.contract.columns import Row
from servegauge.contract.flag import ServersCase
from servegauge.contract.flags import raised
from servegauge.contract.records.launch import LaunchRecord


def mark_servers(rows: Iterable[dict[str, Any]], record_of: Callable[[str, int], LaunchRecord | None]) -> None:
    """Set `server` of every measured row of CELLS, from 0 in the order of time, and flag launches of several.

    `record_of` gives launch.json of (launch, attempt). `flag_details` of the rows are still lists.
    """
    launches: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok":
            launches[row["launch"]].append(row)
    for launch, mine in launches.items():
        lifetimes: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
        for row in mine:
            lifetimes[row["attempt"], _start(record_of(launch, row["attempt"]), row)].append(row)
        begins = []
        for number, (_, served) in enumerate(sorted(lifetimes.items())):
            begins.append(min((row.get("started_utc") or "" for row in served), default=""))
            for row in served:
                row["server"] = number
        for row in mine if len(begins) > 1 else ():
            apart_s = seconds_between(begins[0], begins[-1])
            apart = None if apart_s is None else duration(apart_s)
            for flag in raised(ServersCase(row["server"], len(begins), apart)):
                row["flag_details"] = [*row["flag_details"], flag]
                row["flags"] = sorted({*row["flags"], flag["flag"]})


def _start(record: LaunchRecord | None, row: Row) -> int:
    """Which start of its attempt's server a cell came after: the last one that was ready before it began."""
    began = seconds_of(row.get("started_utc"))
    ready = [seconds_of(start.utc) for start in record.server_starts] if record else []
    return sum(one is not None and began is not None and one <= began for one in ready)

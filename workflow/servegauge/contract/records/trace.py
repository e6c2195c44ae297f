"""What a traced cell left: `trace.json`, written last, which vouches for every file beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from servegauge.contract.records.cell import Measured


class TraceRecord(Measured, frozen=True, kw_only=True):
    """A trace, or one that failed. Its launch is its own: no latency of it is one of the timed cell's.

    `captures` are those of its files that the profiler wrote, one a rank; without them its tables are beside it.
    `cell` is the timed cell whose load was replayed under the profiler, None for a capture without one. `asked` is
    `trace:` of the launch. `tpot_p50_s` is the median TPOT under the profiler, which shows the profiler's cost.
    """

    WHAT: ClassVar[str] = "the record of a trace"
    REMEDY: ClassVar[str] = "Remove the folder {folder} and give the same command again: the cell is traced again."

    trace: str
    cell: str | None = None
    launch: str | None = None
    platform: str
    condition: str = ""
    profiler: Literal["nsys", "torch"]
    asked: Mapping[str, Any] | None = None
    tpot_p50_s: float | None = None
    captures: tuple[str, ...] = ()

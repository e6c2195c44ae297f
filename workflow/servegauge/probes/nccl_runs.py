"""What is kept of a run of nccl-tests: its devices, its rows, and how its bandwidths are defined."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class NcclOutputError(ValueError):
    """A line that is not understood. The text names the source, the line's number, the line and the reason."""


@dataclass(frozen=True)
class Device:
    """One rank's GPU."""

    rank: int
    host: str
    device: int
    pci: str
    model: str


@dataclass(frozen=True)
class Measurement:
    """One size, one placement. Time in microseconds, bandwidths in 10^9 bytes per second.

    `wrong` is the number of wrong elements, None where the test did not check (`N/A`). Builds before 2.12 print a
    largest relative error instead: it is `error` then, and `wrong` is None. `times_us` are the single iterations where
    the build writes them (-I 1), else empty: `time_us` is then a mean over `Run.iterations`.
    """

    size_bytes: int
    count: int
    dtype: str
    redop: str | None
    root: int | None
    in_place: bool
    time_us: float
    algbw_gb_s: float
    busbw_gb_s: float
    wrong: float | None = None
    error: float | None = None
    cpu_time: bool = False
    times_us: tuple[float, ...] = ()


@dataclass
class Run:
    """One test of one collective. `collective` is None where an old build does not print its own name.

    `failure`: the message when it died, or that it ended before its table; its rows are those before that.
    """

    line: int
    collective: str | None = None
    version: str | None = None
    nccl_version: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    rows: list[Measurement] = field(default_factory=list)
    out_of_bounds: int | None = None
    average_busbw_gb_s: float | None = None
    failure: str | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ranks(self) -> int:
        return len(self.devices)

    @property
    def iterations(self) -> int | None:
        return self.settings.get("iters")


def busbw_factor(collective: str, ranks: int) -> float:
    """busbw / algbw, as nccl-tests defines it (doc/PERFORMANCE.md): what crosses the slowest link, over the size.

    ValueError for a collective it does not define.
    """
    if collective == "all_reduce":
        return 2 * (ranks - 1) / ranks
    if collective in ("all_gather", "reduce_scatter", "all_to_all", "alltoall", "alltoallv", "gather", "scatter"):
        return (ranks - 1) / ranks
    if collective in ("broadcast", "reduce", "send_recv", "sendrecv", "hypercube"):
        return 1.0
    raise ValueError(f"nccl-tests defines no bus bandwidth for {collective!r}")

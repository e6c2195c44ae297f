"""One rank of the collectives probe: `python -m servegauge.probes.suite.collective_rank spec.json RANK LOCAL_RANK`.

All ranks read the same specification and meet at its address; rank 0 writes what all of them measured. Sizes mean what
they mean in nccl-tests: the larger of what a rank sends and receives. Values are chosen so that every sum is exact in
16 bit up to 256 ranks, so a result is right or wrong, not nearly right.
"""

from __future__ import annotations

import datetime
import importlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servegauge.base.files import write_json
from servegauge.probes.harness.cuda import CYCLES_PER_S, HOLD_S, MOST_QUEUED, ClockLog, warm_up
from servegauge.probes.nccl_tests import busbw_factor

OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
SPLIT = ("all_gather", "reduce_scatter", "all_to_all")  # their buffers are one part for each rank
RENDEZVOUS_S = 120
# (fill the buffers, run once, number of wrong elements of a run that followed a filling)
Operation = tuple[Callable[[], object], Callable[[], object], Callable[[], int]]


class Rank:
    """This process's part: its group, its device, and the operations on them."""

    def __init__(self, spec: dict[str, Any], rank: int, local_rank: int) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.dist: Any = importlib.import_module("torch.distributed")
        self.spec, self.rank, self.world = spec, rank, spec["world"]
        self.cuda = spec["backend"] == "nccl"
        self.device = self.torch.device("cuda", local_rank) if self.cuda else self.torch.device("cpu")
        if self.cuda:
            self.torch.cuda.set_device(self.device)
            self.hold_s = HOLD_S[0]
        else:
            self.torch.set_num_threads(1)
        self.dtype = {"fp32": self.torch.float32, "bf16": self.torch.bfloat16}[spec["dtype"]]
        self.dist.init_process_group(
            spec["backend"],
            init_method=f"tcp://{spec['host']}:{spec['port']}",
            rank=rank,
            world_size=self.world,
            timeout=datetime.timedelta(seconds=RENDEZVOUS_S),
        )

    def pattern(self, rank: int, count: int, offset: int = 0) -> Any:
        """`rank`'s numbers: 0 or 1, another order on each rank."""
        index = self.torch.arange(offset, offset + count, device=self.device)
        return ((index + rank) % 2).to(self.dtype)

    def total(self, count: int, offset: int = 0) -> Any:
        """The sum of all ranks' patterns."""
        return sum(self.pattern(rank, count, offset).float() for rank in range(self.world)).to(self.dtype)

    def wrong(self, result: Any, expected: Any) -> int:
        return int((result != expected).sum().item())

    def operation(self, name: str, size: int) -> Operation | str:
        """`name` on buffers of `size` bytes, or why that cannot be."""
        count = size // (2 if self.spec["dtype"] == "bf16" else 4)
        part = count // self.world
        if part == 0:
            return f"{size} bytes cannot be spread over {self.world} ranks"
        dist, rank, world = self.dist, self.rank, self.world
        source = self.torch.zeros(part * world if name in SPLIT else count, dtype=self.dtype, device=self.device)
        target = self.torch.zeros_like(source)

        def fill(mine: Any) -> None:
            """Buffers are zeros while the clock runs, so that sums made in place again and again stay numbers."""
            source[: len(mine)] = mine
            target.fill_(-1)

        if name == "all_reduce":
            return (
                lambda: target.copy_(self.pattern(rank, count)),
                lambda: dist.all_reduce(target),
                lambda: self.wrong(target, self.total(count)),
            )
        if name == "broadcast":
            return (
                lambda: target.copy_(self.pattern(rank, count)),
                lambda: dist.broadcast(target, 0),
                lambda: self.wrong(target, self.pattern(0, count)),
            )
        if name == "all_gather":
            return (
                lambda: fill(self.pattern(rank, part)),
                lambda: dist.all_gather_into_tensor(target, source[:part]),
                lambda: self.wrong(target, self.torch.cat([self.pattern(other, part) for other in range(world)])),
            )
        if name == "reduce_scatter":
            return (
                lambda: fill(self.pattern(rank, part * world)),
                lambda: dist.reduce_scatter_tensor(target[:part], source),
                lambda: self.wrong(target[:part], self.total(part, rank * part)),
            )
        if name == "all_to_all":
            mine = rank * part
            return (
                lambda: fill(self.pattern(rank, part * world)),
                lambda: dist.all_to_all_single(target, source),
                lambda: self.wrong(target, self.torch.cat([self.pattern(other, part, mine) for other in range(world)])),
            )
        to, of = (rank + 1) % world, (rank - 1) % world

        def send_recv() -> None:
            sent = dist.P2POp(dist.isend, source, to)
            received = dist.P2POp(dist.irecv, target, of)
            for work in dist.batch_isend_irecv([sent, received]):
                work.wait()

        return (
            lambda: fill(self.pattern(rank, count)),
            send_recv,
            lambda: self.wrong(target, self.pattern(of, count)),
        )

    def moved(self, name: str, size: int) -> int:
        """Bytes of the buffers, which are less than `size` where it cannot be divided by the number of ranks."""
        each = 2 if self.spec["dtype"] == "bf16" else 4
        whole = size // each
        return each * (whole // self.world * self.world if name in SPLIT else whole)

    def settle(self) -> None:
        if self.cuda:
            self.torch.cuda.synchronize()

    def slowest(self, seconds: list[float]) -> list[float]:
        """For each sample the time of the rank that took longest: a collective is done when all are."""
        times = self.torch.tensor(seconds, dtype=self.torch.float64, device=self.device)
        self.dist.all_reduce(times, op=self.dist.ReduceOp.MAX)
        return times.cpu().tolist()

    def measure(self, name: str, size: int) -> dict[str, Any]:
        """One operation at one size: seconds of each sample, and how many elements were wrong over all ranks."""
        made = self.operation(name, size)
        if isinstance(made, str):
            return {"operation": name, "size_bytes": size, "skipped": made}
        fill, once, count_wrong = made
        try:
            once()
        except (RuntimeError, ValueError, NotImplementedError) as error:
            # Every rank is refused alike, before anything is sent, so the group stays usable.
            return {"operation": name, "size_bytes": size, "skipped": f"{self.spec['backend']}: {error}"}
        self.settle()
        inner = self.inner(once)
        clock = ClockLog(self.torch) if self.cuda else None
        samples = []
        for _ in range(self.spec["samples"]):
            seconds = self.queued(once, inner, clock) if clock else self.timed(once, inner)
            if seconds is None:
                why = f"{inner} calls could not be queued within {HOLD_S[1]:g} s: their time would be the CPU's"
                return {"operation": name, "size_bytes": size, "failed": why}
            samples.append(seconds)
        fill()
        once()
        self.settle()
        wrong = self.torch.tensor([count_wrong()], dtype=self.torch.int64, device=self.device)
        self.dist.all_reduce(wrong)
        return {
            "operation": name,
            "size_bytes": size,
            "bytes": self.moved(name, size),
            "seconds": self.slowest(samples),
            "wrong": int(wrong.item()),
            "busbw_factor": busbw_factor(name, self.world),
            "detail": {"calls": inner, **(clock.detail(len(samples)) if clock else {})},
        }

    def timed(self, once: Callable[[], object], inner: int) -> float:
        """Seconds of one call, by the wall clock, of `inner` in a row."""
        self.dist.barrier()
        self.settle()
        begin = time.perf_counter()
        for _ in range(inner):
            once()
        self.settle()
        return (time.perf_counter() - begin) / inner

    def queued(self, once: Callable[[], object], inner: int, clock: ClockLog) -> float | None:
        """The same on GPUs, by events around calls that were queued while the GPU was held, as in `harness.cuda`.

        None where they cannot be queued on every rank: all ranks decide alike, or one would wait for the others.
        """
        cuda = self.torch.cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        while True:
            self.dist.barrier()
            self.settle()
            cuda._sleep(int(self.hold_s * CYCLES_PER_S))
            start.record()
            for _ in range(inner):
                once()
            end.record()
            late, mhz = start.query(), clock.clock.mhz()
            self.settle()
            if not self.anywhere(late):
                clock.readings.append(mhz)
                return float(start.elapsed_time(end)) / 1e3 / inner
            if self.hold_s >= HOLD_S[1]:
                return None
            self.hold_s = min(2 * self.hold_s, HOLD_S[1])

    def anywhere(self, here: bool) -> bool:
        """True where it is so on any rank."""
        found = self.torch.tensor([int(here)], dtype=self.torch.int64, device=self.device)
        self.dist.all_reduce(found, op=self.dist.ReduceOp.MAX)
        return bool(found.item())

    def inner(self, once: Callable[[], object]) -> int:
        """Calls in one sample, the same on every rank, so that a sample takes about the time it should."""
        times = []
        for _ in range(3):
            self.dist.barrier()
            begin = time.perf_counter()
            once()
            self.settle()
            times.append(time.perf_counter() - begin)
        slowest = statistics.median(self.slowest(times))
        return max(1, min(MOST_QUEUED if self.cuda else 200, round(self.spec["sample_s"] / max(slowest, 1e-7))))


def main() -> int:
    spec = json.loads(Path(sys.argv[1]).read_text())
    rank, local_rank = int(sys.argv[2]), int(sys.argv[3])
    part = Rank(spec, rank, local_rank)
    if part.cuda:
        warm_up(part.torch)
    end = time.monotonic() + spec["time_limit_s"]
    results = []
    for name in spec["operations"]:
        for size in spec["sizes"]:
            # Rank 0 decides for all: their clocks differ, and a rank that stopped alone would leave the others waiting.
            late = part.torch.tensor([int(time.monotonic() > end)], device=part.device)
            part.dist.broadcast(late, 0)
            if late.item():
                results.append({"operation": name, "size_bytes": size, "skipped": "the time limit was used up"})
            else:
                results.append(part.measure(name, size))
    part.dist.barrier()
    if rank == 0:
        write_json(Path(spec["answer"]), results)
    part.dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # gloo's threads may hang in interpreter shutdown after the group is gone

"""Memory bandwidth: read, write and copy on the CPU by size and threads; host to device and back on a GPU.

Bytes are counted as STREAM does: a copy of n bytes reads n and writes n, so it moves 2n. Between host and device n
bytes cross the bus, so it moves n. Latency rows give the time of one small copy instead.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Wrong, per_second
from servegauge.probes.harness.phases import DECODE, parallelism
from servegauge.probes.harness.stats import Effort, repeat
from servegauge.probes.suite.cuda_memcpy import cuda_cases

KiB, MiB = 1 << 10, 1 << 20
OPERATIONS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], object], int]] = {
    # One vectorised loop each, all of which let go of Python's lock; the factor counts reads and writes.
    "read": (lambda source, target: np.bitwise_or.reduce(source), 1),
    "write": (lambda source, target: target.fill(7), 1),
    "copy": (lambda source, target: np.copyto(target, source), 2),
}


class Memcpy(Probe):
    name = "memcpy"
    title = "Memory copies"
    units: ClassVar = {"bandwidth_gb_s": "GB/s", "latency_us": "us"}
    primary = ("bandwidth_gb_s", "latency_us")
    one_thread = True  # it starts its own threads
    measures = "memory bandwidth: read, write, copy by size and threads; on a GPU host-device, device-device and peers"

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        if variant.get("direction") == "peer-to-peer":
            return parallelism("all_reduce", 0, cells)
        if variant.get("direction") in ("host-to-device", "device-to-host"):
            return "each step that moves tokens to and from the GPU (TTFT, TPOT)"
        return DECODE

    def cases(self, context: Context) -> Iterator[Case]:
        cpus = len(context.server_cpus)
        counts = sorted({1, *(2**i for i in range(1, 8) if 2**i < cpus), cpus})
        quick = (256 * KiB, 64 * MiB)
        full = (16 * KiB, 256 * KiB, 4 * MiB, 64 * MiB, 512 * MiB)
        for size in context.sizes((64 * KiB,), quick, full):
            for threads in context.sizes((1, 2), sorted({1, cpus}), counts):
                for operation in OPERATIONS:
                    about = {"operation": operation, "size_bytes": size, "threads": threads, "device": "cpu"}
                    measure = partial(self._bandwidth, operation, size, threads, context.effort)
                    yield Case(about, "bandwidth_gb_s", measure)
        yield from cuda_cases(context)

    @staticmethod
    def _bandwidth(operation: str, size: int, threads: int, effort: Effort) -> Measured:
        """GB/s of all `threads` together, each with buffers of its own of size / threads bytes."""
        words = size // threads // 8
        if words == 0:
            raise Skip(f"{size} bytes cannot be spread over {threads} threads")
        sources = [np.full(words, index + 1, dtype=np.int64) for index in range(threads)]
        targets = [np.zeros(words, dtype=np.int64) for _ in range(threads)]
        call, factor = OPERATIONS[operation]
        call(sources[0], targets[0])
        begin = time.perf_counter()
        call(sources[0], targets[0])
        inner = max(1, math.ceil(effort.sample_s / (time.perf_counter() - begin)))
        if threads == 1:
            seconds = repeat(partial(_spin, call, sources[0], targets[0], inner), effort)
        else:
            seconds = _together(call, sources, targets, inner, effort)
        _verify(operation, sources, targets)
        moved = factor * words * 8 * threads
        return Measured("bandwidth_gb_s", per_second(moved, seconds, 1e9), {"calls_per_sample": inner}, True)


def _spin(call: Callable, source: np.ndarray, target: np.ndarray, inner: int) -> float:
    begin = time.perf_counter()
    for _ in range(inner):
        call(source, target)
    return (time.perf_counter() - begin) / inner


def _together(
    call: Callable, sources: list[np.ndarray], targets: list[np.ndarray], inner: int, effort: Effort
) -> list[float]:
    """Seconds of one call by all threads at once: from the common start until the last has finished."""
    gate = threading.Barrier(len(sources) + 1)
    done = threading.Event()

    def work(source: np.ndarray, target: np.ndarray) -> None:
        while True:
            gate.wait()
            if done.is_set():
                return
            for _ in range(inner):
                call(source, target)
            gate.wait()

    workers = [threading.Thread(target=work, args=pair, daemon=True) for pair in zip(sources, targets, strict=True)]
    for worker in workers:
        worker.start()

    def sample() -> float:
        gate.wait()
        begin = time.perf_counter()
        gate.wait()
        return (time.perf_counter() - begin) / inner

    try:
        return repeat(sample, effort)
    finally:
        done.set()
        gate.wait()
        for worker in workers:
            worker.join()


def _verify(operation: str, sources: list[np.ndarray], targets: list[np.ndarray]) -> None:
    for index, (source, target) in enumerate(zip(sources, targets, strict=True)):
        expected = {"write": 7, "copy": index + 1}.get(operation)
        if expected is not None and not np.all(target == expected):
            raise Wrong(f"{operation} left other values than {expected} in the target")
        if operation == "read" and np.bitwise_or.reduce(source) != index + 1:
            raise Wrong("read gave another value than what memory holds")

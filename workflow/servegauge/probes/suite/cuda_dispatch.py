"""What it costs to give a GPU work: launches, graphs, synchronisation, events. Part of the dispatch probe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from servegauge.probes.harness.base import Case, Context, Measured, Skip, Wrong
from servegauge.probes.harness.cuda import wall_timed
from servegauge.probes.harness.numeric import cuda_torch
from servegauge.probes.harness.stats import Effort

QUEUED = 500  # launches in one sample of throughput; fewer than the queue of a stream holds
GRAPH_KERNELS = 100


def cuda_cases(context: Context) -> Iterator[Case]:
    """Every queue operation of a GPU; one skipped case where there is none."""
    try:
        torch = cuda_torch()
    except Skip as skip:
        yield Case.without({"operation": "kernel launch", "device": "cuda"}, "time_us", skip)
        return
    operations: dict[str, Callable[[Any, Effort], Measured]] = {
        "kernel launch and wait": _launch_and_wait,
        "kernel launch": _launch,
        "graph launch": _graph,
        "stream synchronise": _synchronise,
        "event record": _event,
    }
    for operation, measure in operations.items():
        about = {"operation": operation, "device": "cuda"}
        yield Case(about, "time_us", partial(measure, torch, context.effort))


def _wall(torch: Any, operation: Callable[[], object], count: int, effort: Effort) -> Measured:
    """Microseconds of one of `count` operations by the wall clock; the queue is empty before each sample."""

    def sample() -> float:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(count):
            operation()
        end = time.perf_counter()
        torch.cuda.synchronize()
        return (end - begin) / count * 1e6

    return Measured("time_us", *wall_timed(torch, sample, effort))


def _launch_and_wait(torch: Any, effort: Effort) -> Measured:
    """From the call to the result of the smallest kernel: latency."""
    value = torch.zeros(1, device="cuda")

    def once() -> None:
        value.add_(1)
        torch.cuda.synchronize()

    return _wall(torch, once, 20, effort)


def _launch(torch: Any, effort: Effort) -> Measured:
    """The CPU's time to queue one small kernel while the GPU runs behind: throughput."""
    value = torch.zeros(1, device="cuda")
    return _wall(torch, lambda: value.add_(1), QUEUED, effort)


def _graph(torch: Any, effort: Effort) -> Measured:
    """The CPU's time to launch a captured graph of 100 kernels; its result is checked."""
    value = torch.zeros(1, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        value.add_(1)  # warm up outside the capture, as torch asks
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_KERNELS):
            value.add_(1)
    value.zero_()
    graph.replay()
    torch.cuda.synchronize()
    if value.item() != GRAPH_KERNELS:
        raise Wrong(f"a graph of {GRAPH_KERNELS} additions gave {value.item()}")
    measured = _wall(torch, graph.replay, 10, effort)
    return replace(measured, detail={**measured.detail, "kernels": GRAPH_KERNELS}, verified=True)


def _synchronise(torch: Any, effort: Effort) -> Measured:
    """Synchronising a stream with nothing in it."""
    stream = torch.cuda.current_stream()
    return _wall(torch, stream.synchronize, 100, effort)


def _event(torch: Any, effort: Effort) -> Measured:
    """Recording one event."""
    events = [torch.cuda.Event() for _ in range(100)]
    turn = iter(range(1 << 62))
    return _wall(torch, lambda: events[next(turn) % 100].record(), 100, effort)
